"""The connector over real sockets: two of them call each other, as phone and gateway, trunk and customer."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastagent.connectors.leg import HangupReason, LegError
from fastagent.connectors.rtp.stream import RtpStream
from fastagent.connectors.sip.dial import DialError, NoRoomError
from fastagent.connectors.sip.media import ALL_CODECS, G722, OPUS, PCMA, PCMU
from fastagent.media.g711 import Int16Array
from fastagent.media.wav import write_wav
from tests.support.sip_end import HOST, call, certificate, end, trunk_to, until

pytestmark = pytest.mark.real


async def test_a_call_from_invite_to_bye() -> None:
    async with call() as (caller, mine, callee, theirs):
        assert (theirs.agent_id, theirs.leg.info.direction, mine.leg.info.direction) == ("agent", "inbound", "outbound")
        assert mine.leg.info.call_id == theirs.leg.info.call_id
        assert caller.progress == [("answered", None)]
        mine.speak(hz=500)
        theirs.speak(hz=900)
        await until(lambda: min(mine.loud_s, theirs.loud_s) >= 0.4)
        await mine.leg.send_dtmf("12#")
        await until(lambda: theirs.keys == "12#")
        await theirs.leg.hang_up(HangupReason.COMPLETED)
        await asyncio.gather(mine.over.wait(), theirs.over.wait())
        assert mine.ended == "caller_hung_up"
        await until(lambda: caller.places == callee.places == 0)
        quality = mine.leg.quality()
        assert quality is not None
        assert (quality["lost"], quality["one_way"]) == (0, None)


@pytest.mark.parametrize("codec", ALL_CODECS, ids=lambda one: one.rtpmap)
async def test_every_codec_is_agreed_on_and_heard(codec: Any) -> None:
    async with call({"codecs": (codec,)}) as (_, mine, _, theirs):
        mine.speak()
        theirs.speak()
        await until(lambda: min(mine.loud_s, theirs.loud_s) >= 0.4)
        quality = theirs.leg.quality()
        assert quality is not None
        assert quality["codec"] == codec.name


async def test_our_order_of_codecs_counts_if_it_was_set() -> None:
    async with call({"codecs": (PCMU, PCMA, G722)}, {"codecs": (G722, PCMU), "prefer_ours": True}) as (_, _, _, theirs):
        assert theirs.leg.info.audio.rate_hz == 16000
    async with call({"codecs": (PCMU, PCMA, G722)}, {"codecs": (G722, OPUS, PCMU)}) as (_, _, _, theirs):
        assert theirs.leg.info.audio.rate_hz == 8000


@pytest.mark.parametrize("srtp", ["optional", "required"])
async def test_srtp_is_had_where_one_side_requires_it(srtp: str) -> None:
    async with call({"srtp": "required"}, {"srtp": srtp}) as (_, mine, _, theirs):
        mine.speak()
        theirs.speak()
        await until(lambda: min(mine.loud_s, theirs.loud_s) >= 0.4)
        assert mine.leg.stream.plan.srtp_out is not None  # type: ignore[attr-defined]


async def test_what_cannot_be_had_is_refused_and_told() -> None:
    async with end(srtp="off") as callee, end(srtp="required") as caller:
        caller.dial(callee.uri.replace("sip:", "sip:agent@"))
        await until(lambda: caller.progress)
        assert caller.progress == [("ended", "failed")]
        assert (caller.places, callee.places) == (0, 0)


@pytest.mark.parametrize("codec", [PCMU, G722], ids=lambda one: one.name)
async def test_keys_are_tones_where_there_are_no_telephone_events_and_that_was_asked_for(
    codec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastagent.connectors.sip.offer_answer._DTMF", {})
    asked = {"codecs": (codec,), "inband_keys": True}
    async with call(asked, {"inband_keys": True}) as (_, mine, _, theirs):
        await mine.leg.send_dtmf("159#")
        await until(lambda: theirs.keys == "159#")
    async with call({"codecs": (codec,)}, {"inband_keys": True}) as (_, mine, _, theirs):
        await mine.leg.send_dtmf("70")  # by INFO
        await until(lambda: theirs.keys == "70")
        mine.speak(0.2)
        assert theirs.leg.stream.outbound.queue.queued_s == 0  # type: ignore[attr-defined]


# -- on hold -----------------------------------------------------------------------------------------------------------


async def test_on_hold_nobody_is_heard_and_both_are_afterwards() -> None:
    async with call() as (_, mine, _, theirs):
        await mine.leg.hold(True)
        await until(lambda: theirs.holds == [True])
        assert mine.holds == [True]
        theirs.speak(0.3)
        await asyncio.sleep(0.6)
        assert mine.loud_s == 0
        await mine.leg.hold(False)
        await until(lambda: (mine.holds, theirs.holds) == ([True, False], [True, False]))
        theirs.leg.clear()
        theirs.speak()
        mine.speak()
        await until(lambda: min(mine.loud_s, theirs.loud_s) >= 0.4)


async def test_music_on_hold_is_played_over_and_over_and_is_not_the_callers_speech(tmp_path: Path) -> None:
    tune = (9000 * np.sin(2 * np.pi * 700 * np.arange(4410) / 44100)).astype(np.int16)
    write_wav(tmp_path / "tune.wav", [tune], 44100)
    async with call({"hold_music": tmp_path / "tune.wav"}) as (_, mine, callee, theirs):
        heard = []
        stream = theirs.leg.stream  # type: ignore[attr-defined]
        on_audio = stream._on_audio

        def listen(samples: Int16Array, now: float) -> None:
            heard.append(samples)
            on_audio(samples, now)

        stream._on_audio = listen
        await mine.leg.hold(True)
        await until(lambda: sum(float(np.abs(one).max()) > 3000 for one in heard) >= 30)
        assert theirs.loud_s == 0
        await mine.leg.hold(False)
        await asyncio.sleep(0.3)
        before = theirs.loud_s
        await asyncio.sleep(0.3)
        assert theirs.loud_s == before
        assert callee.errors == {}


async def test_holds_that_are_asked_for_at_once_come_one_after_the_other() -> None:
    async with call() as (_, mine, _, theirs):
        await asyncio.gather(mine.leg.hold(True), mine.leg.hold(True), mine.leg.hold(False), mine.leg.hold(True))
        await until(lambda: theirs.holds == [True, False, True])


# -- transfers ---------------------------------------------------------------------------------------------------------


async def test_a_phone_that_takes_no_refer_says_so_and_the_call_goes_on() -> None:
    async with call() as (_, mine, _, theirs):
        with pytest.raises(LegError, match="405"):
            await mine.leg.transfer("sip:somebody@127.0.0.1")
        with pytest.raises(LegError, match="no address"):
            await mine.leg.transfer("mailto:somebody")
        theirs.speak()
        await until(lambda: mine.loud_s >= 0.4)


async def test_an_attended_transfer_to_nobody_gives_the_caller_back() -> None:
    async with call(desk={"attended": True}) as (caller, mine, _, theirs):
        with pytest.raises(LegError, match="unreachable"):
            await theirs.leg.transfer("sip:nobody@127.0.0.1:9;transport=tcp")
        assert mine.holds == theirs.holds == [True, False]
        caller.full = True
        with pytest.raises(LegError, match="unreachable"):
            await theirs.leg.transfer("200")  # at the caller's own place, which takes no calls now
        theirs.speak()
        await until(lambda: mine.loud_s >= 0.4)


async def test_an_attended_transfer_calls_the_other_and_then_asks_for_the_change() -> None:
    async with call(desk={"attended": True}) as (caller, mine, _, theirs):
        with pytest.raises(LegError, match="405"):  # this phone takes no REFER
            await theirs.leg.transfer("agent2")
        other = await caller.talk(1)
        assert other.agent_id == "agent2"
        await other.over.wait()
        assert mine.holds == [True, False]


# -- calls by us -------------------------------------------------------------------------------------------------------


async def test_whom_nobody_answers_is_told_by_a_word() -> None:
    async with end() as callee, end() as caller:
        callee.full = True
        caller.dial(callee.uri.replace("sip:", "sip:agent@"))
        await until(lambda: caller.progress == [("ended", "unreachable")])
        assert str(caller.why) == "unreachable (503 Service Unavailable)"
        caller.progress.clear()
        caller.dial(f"sip:agent@{HOST}:9;transport=tcp")
        await until(lambda: caller.progress == [("ended", "unreachable")])
        assert str(caller.why) == "unreachable"  # nobody said anything
        async with end(full_status=486) as other:
            other.full = True
            caller.progress.clear()
            caller.dial(other.uri.replace("sip:", "sip:agent@"))
            await until(lambda: caller.progress == [("ended", "busy")])
        with pytest.raises(DialError, match="SIP_TRUNK"):
            caller.dial("+15550100001")
        with pytest.raises(DialError, match="no SIP address"):
            caller.dial("http://example.com")
        caller.full = True
        with pytest.raises(NoRoomError):
            caller.dial(callee.uri.replace("sip:", "sip:agent@"))
        assert caller.places == 0


async def test_a_call_that_rings_too_long_and_one_that_is_taken_back() -> None:
    async with end() as callee, end() as caller:
        callee.sip._offered = lambda offer: callee.sip.perform(  # type: ignore[method-assign]
            callee.sip.agent.ring(offer.call, asyncio.get_running_loop().time())
        )
        caller.dial(callee.uri.replace("sip:", "sip:agent@"), ring_s=0.2)
        await until(lambda: caller.progress == [("ringing", None), ("ended", "no_answer")])
        call_id = caller.dial(callee.uri.replace("sip:", "sip:agent@"))
        await until(lambda: caller.progress[2:] == [("ringing", None)])
        assert caller.sip.hang_up(call_id)
        await until(lambda: caller.progress[3:] == [("ended", "cancelled")])
        assert not caller.sip.hang_up(call_id)


async def test_it_rings_as_long_as_the_settings_say_and_who_hangs_up_meanwhile_is_not_talked_to() -> None:
    async with end(ring_s=0.3) as callee, end() as caller:
        caller.dial(callee.uri.replace("sip:", "sip:agent@"))
        await callee.talk()
        assert caller.progress == [("ringing", None), ("answered", None)]
        call_id = caller.dial(callee.uri.replace("sip:", "sip:agent@"))
        await until(lambda: caller.progress[2:] == [("ringing", None)])
        caller.sip.hang_up(call_id)
        await asyncio.sleep(0.5)
        assert (len(callee.talks), callee.places) == (1, 1)


async def test_the_greeting_waits_until_the_caller_hears_it() -> None:
    """Until the ACK or a packet of the caller's, whichever is first (acceptance 37)."""
    async with end() as callee, end() as caller:
        receive, acks = callee.sip._transports._received, asyncio.Event()

        def delayed(data: bytes, *more: Any) -> None:
            if data.startswith(b"ACK") and not acks.is_set():
                asyncio.get_running_loop().call_later(0.5, lambda: (acks.set(), receive(data, *more)))  # type: ignore[func-returns-value]
            else:
                receive(data, *more)

        callee.sip._transports._datagrams.get_protocol()._received = delayed  # type: ignore[union-attr]
        caller.sip._equipment = replace(caller.sip._equipment, make_stream=_Mute)
        caller.dial(callee.uri.replace("sip:", "sip:agent@"))
        theirs = await callee.talk()
        assert acks.is_set()
        theirs.speak(0.5)
        mine = await caller.talk()
        await until(lambda: mine.loud_s >= 0.48)


class _Mute(RtpStream):
    """Listens, and sends nothing."""

    def send_due(self, now: float) -> None:
        self.outbound.tick(now)


# -- a trunk -----------------------------------------------------------------------------------------------------------


async def test_a_trunk_is_registered_at_called_through_and_left() -> None:
    async with end(users={"ann": "secret"}, trust_loopback=False) as desk:
        async with end(trunk=trunk_to(desk)) as pbx:
            await until(lambda: pbx.registered == [True])
            assert pbx.sip.weaknesses == []
            pbx.dial("+15550100001")
            theirs = await desk.talk()
            assert theirs.leg.info.to == "+15550100001"
            assert theirs.leg.info.from_ == "ann"
        assert pbx.registered == [True, False]


async def test_a_wrong_password_at_the_trunk_is_a_weakness_and_is_not_tried_again() -> None:
    async with (
        end(users={"ann": "secret"}, trust_loopback=False) as desk,
        end(trunk=trunk_to(desk, password="wrong")) as pbx,
    ):
        await until(lambda: pbx.registered == [False])
        assert pbx.sip.weaknesses == ["the SIP trunk refuses our registration with 401"]


async def test_calls_of_a_trunk_need_no_password_and_are_routed_by_its_headers() -> None:
    async with end() as provider:
        trunk = trunk_to(provider, register=False, user="")
        async with end(trunk=trunk, agents={"+15550100002": "agent_b"}) as desk:
            provider.dial(desk.uri.replace("sip:", "sip:+15550100002@"))
            assert (await desk.talk()).agent_id == "agent_b"
            provider.dial(desk.uri.replace("sip:", "sip:15550100002@"))
            assert (await desk.talk(1)).agent_id == "agent_b"
            provider.dial(desk.uri.replace("sip:", "sip:elsewhere@"))
            assert (await desk.talk(2)).agent_id == "front_desk"


# -- TLS ---------------------------------------------------------------------------------------------------------------


async def test_a_call_over_tls_is_verified_by_our_authorities(tmp_path: Path) -> None:
    files = certificate(tmp_path)
    async with end(tls=files) as desk:
        port = desk.sip.ports["tls"]
        async with end(tls_ca=files.certificate, srtp="required") as phone:
            phone.dial(f"sip:agent@{HOST}:{port};transport=tls")
            mine, theirs = await asyncio.gather(phone.talk(), desk.talk())
            mine.speak()
            await until(lambda: theirs.loud_s >= 0.4)
            await theirs.leg.hang_up(HangupReason.COMPLETED)  # over the phone's own connection
            await mine.over.wait()
        async with end() as stranger:
            stranger.dial(f"sip:agent@{HOST}:{port};transport=tls")
            await until(lambda: stranger.progress == [("ended", "unreachable")])


async def test_a_renewed_certificate_is_served_without_a_restart(tmp_path: Path) -> None:
    files = certificate(tmp_path)
    old = files.certificate.read_bytes()
    async with end(tls=files) as desk:
        certificate(tmp_path, "other")
        (tmp_path / "other.pem").replace(files.certificate)
        desk.sip._refresh_tls()  # the key does not fit yet: the old one stays
        (tmp_path / "other.key").replace(files.key)
        desk.sip._refresh_tls()
        port = desk.sip.ports["tls"]
        async with end(tls_ca=files.certificate) as phone:
            phone.dial(f"sip:agent@{HOST}:{port};transport=tls")
            await phone.talk()
        (tmp_path / "old.pem").write_bytes(old)
        async with end(tls_ca=tmp_path / "old.pem") as phone:
            phone.dial(f"sip:agent@{HOST}:{port};transport=tls")
            await until(lambda: phone.progress == [("ended", "unreachable")])


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_a_stop_says_goodbye_to_the_calls_that_are_left() -> None:
    async with end() as callee:
        async with end() as caller:
            caller.dial(callee.uri.replace("sip:", "sip:agent@"))
            theirs = await callee.talk()
        await theirs.over.wait()
        assert theirs.ended == "caller_hung_up"


async def test_media_that_fails_ends_its_call_and_no_other() -> None:
    async with call() as (caller, mine, callee, _):
        caller.dial(callee.uri.replace("sip:", "sip:agent@"))
        other = await caller.talk(1)
        mine.leg.stream.outbound.tick = None  # type: ignore[attr-defined]
        await mine.over.wait()
        assert mine.ended == "internal_error"
        (await callee.talk(1)).speak()
        await until(lambda: other.loud_s >= 0.4)


async def test_a_call_whose_media_cannot_begin_is_over_for_both_and_gives_all_back() -> None:
    def broken(*given: Any, **named: Any) -> Any:
        raise OSError("no descriptors are left")

    async with end() as callee, end() as caller:
        callee.sip._equipment = replace(callee.sip._equipment, make_stream=broken)
        caller.dial(callee.uri.replace("sip:", "sip:agent@"))
        mine = await caller.talk()
        await mine.over.wait()
        assert (mine.ended, callee.talks) == ("caller_hung_up", [])
        await until(lambda: callee.places == 0)


async def test_a_call_without_media_ends_with_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastagent.connectors.sip import leg

    seen: list[bytes] = []
    async with call() as (caller, mine, _, theirs):
        receive = caller.sip.agent.receive

        def listen(data: bytes, *more: Any) -> Any:
            seen.append(data)
            return receive(data, *more)

        caller.sip.agent.receive = listen  # type: ignore[method-assign,assignment]
        monkeypatch.setattr(leg, "_MEDIA_TIMEOUT_S", 0.3)
        stream = mine.leg.stream  # type: ignore[attr-defined]
        for listener in (stream.send_due, stream.tick):
            caller.sip._equipment.ticker.remove(listener)
        await theirs.over.wait()
        assert theirs.ended == "media_timeout"
        await mine.over.wait()
    assert any(b'Reason: Q.850;cause=102;text="Media timeout"' in one for one in seen)


async def test_a_route_to_an_agent_that_there_is_not_is_told_and_its_calls_are_taken() -> None:
    async with end(agents={"700": "pharmacy", "701": "agent_b"}) as callee, end() as caller:
        told = "SIP_ROUTES names pharmacy, which is no agent: the default one answers"
        assert callee.sip.weaknesses == [told]
        caller.dial(callee.uri.replace("sip:", "sip:700@"))
        await callee.talk()


async def test_wrong_passwords_and_refusals_are_counted() -> None:
    async with (
        end(users={"ann": "secret"}, trust_loopback=False) as desk,
        end(trunk=trunk_to(desk, password="x")) as pbx,
    ):
        await until(lambda: pbx.registered == [False])
        assert desk.failures == ["sip", "sip"]
    async with end(codecs=(PCMA,)) as callee, end(codecs=(PCMU,)) as caller:
        caller.dial(callee.uri.replace("sip:", "sip:agent@"))
        await until(lambda: caller.progress)
        assert callee.errors == {"refused_488": 1}


async def test_a_clock_that_fails_once_goes_on() -> None:
    async with call() as (caller, mine, _, theirs):
        handle = caller.sip.agent.handle_timeout
        failed: list[float] = []

        def once(now: float) -> Any:
            if not failed:
                failed.append(now)
                raise RuntimeError("a defect")
            return handle(now)

        caller.sip.agent.handle_timeout = once  # type: ignore[method-assign]
        caller.sip._timed_out()
        assert failed
        await mine.leg.hang_up(HangupReason.COMPLETED)
        await theirs.over.wait()


async def test_without_a_port_a_call_is_refused_and_its_place_given_back() -> None:
    async with end() as callee, end() as caller:
        callee.sip._ports._free.clear()
        caller.dial(callee.uri.replace("sip:", "sip:agent@"))
        await until(lambda: caller.progress == [("ended", "unreachable")])
        assert callee.places == 0


async def test_who_asks_how_we_are_is_told_what_a_call_would_be() -> None:
    async with end() as desk:
        for taken, answer in ((True, b"SIP/2.0 200"), (False, b"SIP/2.0 503")):
            desk.taking = taken
            reader, writer = await asyncio.open_connection(HOST, desk.sip.ports["tcp"])
            writer.write(
                b"OPTIONS sip:agent@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1:5070;branch=z9hG4bK1\r\n"
                b"From: <sip:a@127.0.0.1>;tag=1\r\nTo: <sip:agent@127.0.0.1>\r\nCall-ID: 1\r\nCSeq: 1 OPTIONS\r\n\r\n"
            )
            async with asyncio.timeout(5):
                assert (await reader.readline()).startswith(answer)
            writer.close()


async def test_an_address_on_the_trunks_host_and_another_port_is_not_the_trunks() -> None:
    async with end() as provider, end() as other:
        trunk = trunk_to(provider, register=False, user="")
        async with end(trunk=trunk) as desk:
            await asyncio.sleep(0.1)
            desk.dial(other.uri.replace("sip:", "sip:agent@"))
            await other.talk()
            desk.dial(provider.uri.replace("sip:", "sip:agent@"))
            await provider.talk()


async def test_a_refusal_is_in_the_log_with_its_source(caplog: pytest.LogCaptureFixture) -> None:
    async with end(codecs=(PCMA,)) as callee, end(codecs=(PCMU,)) as caller:
        caller.dial(callee.uri.replace("sip:", "sip:agent@"))
        await until(lambda: caller.progress)
    refused = next(one for one in caplog.records if one.getMessage() == "a SIP request is refused")
    assert (refused.why, refused.source) == ("refused_488", HOST)  # type: ignore[attr-defined]


async def test_a_port_that_is_taken_is_named() -> None:
    async with end() as desk:
        with pytest.raises(
            OSError, match=f"SIP cannot listen on 127.0.0.1:{desk.sip.ports['tcp']}: Address already in use"
        ):
            async with end(port=desk.sip.ports["tcp"]):
                pass
