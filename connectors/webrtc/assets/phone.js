"use strict";
const by = (id) => document.getElementById(id);
const STAGES = ["endpointing", "recognition", "logic", "synthesis"];
let call = null;

// The key comes from the fragment, which never leaves the browser, or from the field.
const fragment = new URLSearchParams(location.hash.slice(1));
by("agent").value = fragment.get("agent") || "";
by("key").value = fragment.get("key") || "";

for (const key of "123456789*0#") {
  const button = document.createElement("button");
  button.textContent = key;
  button.disabled = true;
  button.addEventListener("click", () => tell("dtmf", { digits: key }));
  by("keypad").append(button);
}

function status(text) { by("status").textContent = text; }

function inCall(on) {
  by("dial").disabled = on;
  for (const one of [by("mute"), by("hangup"), by("text"), ...by("typing").querySelectorAll("button"), ...by("keypad").children]) {
    one.disabled = !on;
  }
}

function tell(type, payload = {}) {
  if (call && call.channel.readyState === "open") call.channel.send(JSON.stringify({ type, payload }));
}

async function dial() {
  inCall(true);
  status("Calling\u2026");
  by("transcript").replaceChildren();
  try {
    const stream = await navigator.mediaDevices.getUserMedia({
      audio: { echoCancellation: true, noiseSuppression: true, autoGainControl: true },
    });
    const peer = new RTCPeerConnection();
    call = { peer, stream, channel: peer.createDataChannel("events"), lines: new Map() };
    stream.getTracks().forEach((track) => peer.addTrack(track, stream));
    call.channel.addEventListener("message", (event) => heard(JSON.parse(event.data)));
    peer.addEventListener("track", (event) => {
      by("audio").srcObject = event.streams[0] || new MediaStream([event.track]);
      meter(by("audio").srcObject, by("them"));
    });
    peer.addEventListener("connectionstatechange", () => {
      if (peer.connectionState === "connected") status("Connected.");
      if (["failed", "disconnected", "closed"].includes(peer.connectionState)) end("The connection is lost.");
    });
    meter(stream, by("you"));
    await peer.setLocalDescription(await peer.createOffer());
    await gathered(peer);
    const answer = await offer(peer.localDescription);
    if (answer) await peer.setRemoteDescription(answer);
  } catch (error) {
    end(error.name === "NotAllowedError" ? "The microphone was refused." : String(error.message || error));
  }
}

function gathered(peer) {
  if (peer.iceGatheringState === "complete") return Promise.resolve();
  return new Promise((resolve) => {
    const done = () => peer.iceGatheringState === "complete" && resolve();
    peer.addEventListener("icegatheringstatechange", done);
    setTimeout(resolve, 2000);
  });
}

async function offer(description) {
  const headers = { "Content-Type": "application/json" };
  if (by("key").value) headers.Authorization = `Bearer ${by("key").value}`;
  const body = { sdp: description.sdp, type: description.type };
  if (by("agent").value) body.agent_id = by("agent").value;
  const response = await fetch("/webrtc/offer", { method: "POST", headers, body: JSON.stringify(body) });
  const answer = await response.json();
  if (response.ok) return answer;
  if (response.status === 401) by("key-row").hidden = false;
  end(answer.message);
  return null;
}

function end(reason) {
  if (call) {
    tell("end_session");
    call.stream.getTracks().forEach((track) => track.stop());
    const { peer } = call;
    setTimeout(() => peer.close(), 200);
    call = null;
  }
  by("you").value = by("them").value = 0;
  by("mute").setAttribute("aria-pressed", "false");
  inCall(false);
  status(reason);
}

function heard({ type, payload }) {
  if (!call) return; // we have hung up: what was on its way says nothing new
  if (type === "session_started") by("state").textContent = payload.initial_state;
  else if (type === "state_transition") {
    by("state").textContent = payload.to_state;
    note(`${payload.from_state} \u2192 ${payload.to_state}`);
  } else if (type === "transcript") transcript(payload);
  else if (type === "metrics") waterfall(payload.waterfall_ms);
  else if (type === "tool_call") note(`tool ${payload.name}: ${payload.error || `${Math.round(payload.duration_ms)} ms`}`);
  else if (type === "error") note(payload.message);
  else if (type === "session_ended") end(`The call has ended: ${payload.reason.replaceAll("_", " ")}.`);
}

function line(key, className) {
  if (!call) return document.createElement("li");
  let item = call.lines.get(key);
  if (!item) {
    item = document.createElement("li");
    call.lines.set(key, item);
    by("transcript").append(item);
  }
  item.className = className;
  item.scrollIntoView({ block: "nearest" });
  return item;
}

// An answer grows sentence by sentence; at its end, what was not heard of it is struck out.
function transcript({ role, text, is_final, turn_id, heard: ears, interrupted }) {
  const item = line(`${role}${turn_id}`, is_final ? role : `${role} partial`);
  if (role === "user" || !is_final) {
    item.textContent = role === "agent" && item.textContent ? `${item.textContent} ${text}` : text;
    return;
  }
  item.textContent = interrupted ? ears : text;
  if (interrupted && text.length > ears.length) {
    const cut = document.createElement("span");
    cut.className = "cut";
    cut.textContent = ` ${text.slice(ears.length).trim()}`;
    item.append(cut);
  }
}

function note(text) {
  line(`note${performance.now()}`, "note").textContent = text;
}

function waterfall(stages) {
  by("total").textContent = `${Math.round(stages.total)} ms`;
  by("waterfall").replaceChildren();
  by("legend").replaceChildren();
  STAGES.forEach((name, at) => {
    const bar = document.createElement("div");
    bar.className = `s${at}`;
    bar.style.flexGrow = String(Math.max(0, stages[name]));
    by("waterfall").append(bar);
    const item = document.createElement("li");
    const colour = document.createElement("i");
    colour.className = `s${at}`;
    item.append(colour, `${name} ${Math.round(stages[name])} ms`);
    by("legend").append(item);
  });
  by("waterfall").setAttribute("aria-label", STAGES.map((name) => `${name} ${Math.round(stages[name])} ms`).join(", "));
}

let audioContext = null;
function meter(stream, element) {
  audioContext = audioContext || new AudioContext();
  const analyser = audioContext.createAnalyser();
  analyser.fftSize = 512;
  audioContext.createMediaStreamSource(stream).connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  const mine = call;
  const draw = () => {
    if (call !== mine) return;
    analyser.getFloatTimeDomainData(samples);
    const rms = Math.sqrt(samples.reduce((sum, one) => sum + one * one, 0) / samples.length);
    element.value = Math.max(0, Math.min(1, 1 + Math.log10(rms + 1e-6) / 3));
    requestAnimationFrame(draw);
  };
  draw();
}

by("dial").addEventListener("click", dial);
by("hangup").addEventListener("click", () => end("You have hung up."));
by("mute").addEventListener("click", () => {
  const muted = by("mute").getAttribute("aria-pressed") !== "true";
  by("mute").setAttribute("aria-pressed", String(muted));
  if (call) call.stream.getAudioTracks().forEach((track) => { track.enabled = !muted; });
});
by("typing").addEventListener("submit", (event) => {
  event.preventDefault();
  if (by("text").value.trim()) tell("text_input", { text: by("text").value });
  by("text").value = "";
});
addEventListener("beforeunload", () => call && tell("end_session"));
