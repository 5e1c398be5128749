"use strict";
const by = (id) => document.getElementById(id);
const STAGES = ["endpointing", "recognition", "logic", "synthesis"];
const RECONNECT_MS = 15000; // so long a connection may be away
const LOST = "The connection is lost.";
const UNREACHABLE = "The gateway cannot be reached";

// One object for each click on "Call", from the click to the end. Whatever happens later, or is waited for, belongs to
// its own call: `mine`. A call that is over is aborted, and nothing that it still waits for touches the next one.
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

// Before there is a connection one can do no more than hang up.
function controls() {
  const talking = call?.channel?.readyState === "open";
  by("dial").disabled = call !== null;
  by("hangup").disabled = call === null;
  for (const one of [by("mute"), by("text"), ...by("typing").querySelectorAll("button"), ...by("keypad").children]) {
    one.disabled = !talking;
  }
}

// Nothing of the call before is left on the page.
function blank() {
  for (const name of ["transcript", "waterfall", "legend", "total"]) by(name).replaceChildren();
  by("waterfall").setAttribute("aria-label", "no answer yet");
  by("state").textContent = "-";
}

function tell(type, payload = {}) {
  if (call?.channel?.readyState === "open") call.channel.send(JSON.stringify({ type, payload }));
}

async function dial() {
  if (call) return;
  const mine = { over: new AbortController(), stream: null, peer: null, channel: null, away: null, lines: new Map() };
  call = mine;
  controls();
  status("Calling\u2026");
  blank();
  try {
    await connect(mine);
  } catch (error) {
    end(mine, explained(error));
  }
}

async function connect(mine) {
  const { signal } = mine.over;
  if (!navigator.mediaDevices) throw new Error("A microphone needs https, or localhost.");
  const stream = await navigator.mediaDevices.getUserMedia({
    audio: { echoCancellation: true, noiseSuppression: true, autoGainControl: true },
  });
  if (signal.aborted) return silence(stream);
  mine.stream = stream;
  const peer = mine.peer = new RTCPeerConnection();
  stream.getTracks().forEach((track) => peer.addTrack(track, stream));
  const channel = mine.channel = peer.createDataChannel("events");
  channel.addEventListener("open", controls);
  channel.addEventListener("close", () => end(mine, LOST));
  channel.addEventListener("message", (event) => call === mine && heard(mine, JSON.parse(event.data)));
  peer.addEventListener("track", (event) => {
    if (signal.aborted) return;
    by("audio").srcObject = event.streams[0] || new MediaStream([event.track]);
    meter(mine, by("audio").srcObject, by("them"));
  });
  peer.addEventListener("connectionstatechange", () => changed(mine));
  meter(mine, stream, by("you"));
  await peer.setLocalDescription(await peer.createOffer());
  await gathered(peer);
  signal.throwIfAborted();
  const answer = await offer(peer.localDescription, signal);
  signal.throwIfAborted();
  await peer.setRemoteDescription(answer);
}

function explained(error) {
  if (error.name === "NotAllowedError") return "The microphone was refused.";
  if (error.name === "NotFoundError") return "There is no microphone.";
  if (error.name === "NotReadableError") return "The microphone cannot be used: another program may have it.";
  return error.message || String(error);
}

function silence(stream) { stream.getTracks().forEach((track) => track.stop()); }

// "disconnected" may pass: the network changes, or packets are lost for a while.
function changed(mine) {
  if (call !== mine) return;
  const state = mine.peer.connectionState;
  if (state === "connected") {
    clearTimeout(mine.away);
    status("Connected.");
  } else if (state === "disconnected") {
    clearTimeout(mine.away);
    mine.away = setTimeout(() => end(mine, LOST), RECONNECT_MS);
    status("Reconnecting\u2026");
  } else if (state === "failed" || state === "closed") end(mine, LOST);
}

function gathered(peer) {
  if (peer.iceGatheringState === "complete") return Promise.resolve();
  return new Promise((resolve) => {
    const done = () => peer.iceGatheringState === "complete" && resolve();
    peer.addEventListener("icegatheringstatechange", done);
    setTimeout(resolve, 2000);
  });
}

async function offer(description, signal) {
  const headers = { "Content-Type": "application/json" };
  if (by("key").value) headers.Authorization = `Bearer ${by("key").value}`;
  const body = { sdp: description.sdp, type: description.type };
  if (by("agent").value) body.agent_id = by("agent").value;
  const request = { method: "POST", headers, body: JSON.stringify(body), signal };
  const response = await fetch("/webrtc/offer", request).catch(() => { throw new Error(`${UNREACHABLE}.`); });
  const answer = await response.json().catch(() => null); // a proxy's page is none
  if (response.ok && answer?.sdp) return answer;
  if (response.status === 401 && !signal.aborted) by("key-row").hidden = false;
  throw new Error(answer?.message || `${UNREACHABLE} (${response.status}).`);
}

function end(mine, reason) {
  if (call !== mine) return; // it is over already
  tell("end_session");
  call = null;
  mine.over.abort();
  clearTimeout(mine.away);
  if (mine.stream) silence(mine.stream);
  if (mine.peer) setTimeout(() => mine.peer.close(), 200); // what was told is on its way first
  by("audio").srcObject = null;
  by("you").value = by("them").value = 0;
  by("mute").setAttribute("aria-pressed", "false");
  controls();
  status(reason);
}

function heard(mine, { type, payload }) {
  if (type === "session_started") by("state").textContent = payload.initial_state;
  else if (type === "state_transition") {
    by("state").textContent = payload.to_state;
    note(`${payload.from_state} \u2192 ${payload.to_state}`);
  } else if (type === "transcript") transcript(payload);
  else if (type === "metrics") waterfall(payload.waterfall_ms);
  else if (type === "tool_call") note(`tool ${payload.name}: ${payload.error || `${Math.round(payload.duration_ms)} ms`}`);
  else if (type === "error") note(payload.message);
  else if (type === "session_ended") end(mine, `The call has ended: ${payload.reason.replaceAll("_", " ")}.`);
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
function meter(mine, stream, element) {
  audioContext = audioContext || new AudioContext();
  const analyser = audioContext.createAnalyser();
  analyser.fftSize = 512;
  audioContext.createMediaStreamSource(stream).connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
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
by("hangup").addEventListener("click", () => call && end(call, "You have hung up."));
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

// The keys of the keyboard are the keypad's, but where one writes.
addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey || event.target.closest("input")) return;
  const button = [...by("keypad").children].find((one) => one.textContent === event.key);
  if (button) button.click(); // which does nothing while it is disabled
});
addEventListener("beforeunload", () => tell("end_session"));
