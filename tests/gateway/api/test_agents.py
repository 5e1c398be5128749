"""Agents over REST: the document's example, faults at their paths, revisions, and what may not be asked for."""

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web

from fastagent.afsm.llm import LlmError, LlmRequest
from fastagent.afsm.openai_llm import OpenAiConfig, OpenAiLlm
from fastagent.gateway.agent_files import examine_document
from fastagent.gateway.cli.phone import CallRefused
from fastagent.gateway.cli.twilio_phone import TwilioPhone
from tests.gateway.api import DOCUMENT, Rest, call, served, talker
from tests.support.carrier import Speaks, agent
from tests.support.fake_openai import Reply as ModelReply
from tests.support.fake_openai import fake_openai

pytestmark = pytest.mark.real

CONFIG = "/agents/retail_agent/config"
OWN_KEY = "sk-the-servers-own"


# -- the document's example --


async def test_the_documents_own_body_is_taken_with_warnings_about_its_dangling_transitions() -> None:
    async with served() as rest:
        reply = await rest.post(CONFIG, DOCUMENT)
        assert reply.status == 201
        assert reply.body["agent_id"] == "retail_agent"
        assert reply.body["version"] == 1
        assert reply.headers["ETag"] == f'"{reply.body["hash"]}"'
        warnings = " ".join(reply.body["warnings"])
        assert "'handle_query' is not a state" in warnings
        assert "'process_info' is not a state" in warnings
        assert (await rest.get(CONFIG)).body["config"] == DOCUMENT


async def test_strict_refuses_the_documents_own_body_and_keeps_nothing_of_it() -> None:
    async with served() as rest:
        reply = await rest.post(f"{CONFIG}?strict=true", DOCUMENT)
        assert reply.status == 422
        assert {"states[0].allowed_transitions[1]", "states[1].allowed_transitions[0]"} <= set(reply.paths)
        assert (await rest.get(CONFIG)).status == 404


async def test_a_dry_run_says_what_would_be_and_changes_nothing() -> None:
    async with served() as rest:
        would = (await rest.post(f"{CONFIG}?dry_run=true", DOCUMENT)).body
        assert would["dry_run"] is True
        assert (await rest.get("/agents/retail_agent/versions")).status == 404
        done = (await rest.post(CONFIG, DOCUMENT)).body
        assert (would["version"], would["hash"]) == (done["version"], done["hash"]) == (1, done["hash"])
        same = (await rest.post(f"{CONFIG}?dry_run=true", DOCUMENT)).body
        assert same["version"] == 1
        other = (await rest.post(f"{CONFIG}?dry_run=true", talker())).body
        assert other["version"] == 2
        assert (await rest.post(f"{CONFIG}?dry_run=true", {"states": []})).status == 400
        assert (await rest.get(CONFIG)).body["hash"] == done["hash"]


async def test_the_documents_agent_begins_in_its_initial_state_when_a_socket_asks_for_it() -> None:
    async with served() as rest:
        await rest.configure("retail_agent", DOCUMENT)
        async with call(rest, "retail_agent") as one:
            assert one.received[0]["payload"]["initial_state"] == "greeting"
            assert one.received[0]["payload"]["agent_id"] == "retail_agent"


async def test_a_posted_agent_speaks_on_a_socket() -> None:
    async with served() as rest:
        await rest.configure("posted", talker("Hello from REST."))
        async with call(rest, "posted") as one:
            assert (await one.spoken())["heard"] == "Hello from REST."


async def test_a_posted_agent_answers_the_phone_that_names_it_in_the_webhooks_query() -> None:
    async with served() as rest:
        await rest.configure("posted", talker("Hello from REST."))
        async with TwilioPhone(f"{rest.url}/twilio/webhook?agent_id=posted") as phone:
            await asyncio.wait_for(phone.agent_started.wait(), 10)
            (entry,) = (await rest.get("/sessions?agent_id=posted")).body["active_sessions"]
            assert (entry["call_id"], entry["current_state"]) == (phone.call_sid, "greet")
            await phone.press("1")
            await asyncio.wait_for(phone.closed.wait(), 10)
            assert phone.ended_by == "agent"


# -- what is wrong, and where --

FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"states": []}, "states"),
    ({"states": "none"}, "states"),
    ({"states": [{"description": "nameless"}]}, "states[0].name"),
    ({"states": [{"name": ""}]}, "states[0].name"),
    ({"states": [{"name": "n" * 65}]}, "states[0].name"),
    ({"states": [{"name": "greeting\u0007"}]}, "states[0].name"),
    ({"states": [{"name": f"s{at}"} for at in range(201)]}, "states"),
    ({"states": [{"name": "greeting"}, {"name": "greeting"}]}, ""),
    ({"states": [{"name": "greeting", "prompt_template": "x" * 65537}]}, "states[0].prompt_template"),
    ({"states": [{"name": "greeting", "allowed_transitions": "collect_info"}]}, "states[0].allowed_transitions"),
    ({"states": [{"name": "greeting", "on_timeout": {"after": -1, "to": "x"}}]}, "states[0].on_timeout.after"),
    ({"states": [{"name": "greeting", "say": "{{ open"}]}, "states[0].say"),
    ({"states": [{"name": "greeting", "transitions": [{"to": "greeting", "when": "x +"}]}]},
     "states[0].transitions[0].when.expression"),
    ({"states": [{"name": "greeting", "transitions": [{"to": "greeting"}] * 4001}]}, ""),
    ({"states": [{"name": "greeting", "slots": [{"name": "s"}] * 1001}]}, ""),
    ({"states": [{"name": "greeting", "dtmf": {"menu": {str(at): "greeting" for at in range(1001)}}}]},
     "states[0].dtmf.menu"),
    ({"initial_state": "nowhere"}, ""),
    ({"initial_state": 7}, "initial_state"),
    ({"no_input_timeout": 10**400}, "no_input_timeout"),
    ({"limits": {"max_duration": 0}}, "limits.max_duration"),
    ({"turn_config": {"nonsense": 1}}, "turn_config"),
    ({"turn_config": {"vad_threshold": 2}}, "turn_config"),
    ({"llm_config": "gpt-4"}, "llm_config"),
    ({"llm_config": {"temperature": "hot"}}, "llm_config.temperature"),
    ({"llm_config": {"temperature": -1}}, "llm_config.temperature"),
    ({"llm_config": {"max_tokens": 0}}, "llm_config.max_tokens"),
    ({"llm_config": {"model": 4}}, "llm_config.model"),
    ({"llm_config": {"nonsense": 1}}, "llm_config"),
    ({"llm_config": {"extra": "x"}}, "llm_config.extra"),
    ({"llm_config": {"fallbacks": [["model"]]}}, "llm_config.fallbacks[0]"),
    ({"llm_config": {"fallbacks": [{"temperature": []}]}}, "llm_config.fallbacks[0].temperature"),
    ({"llm_config": {"fallbacks": 5}}, "llm_config.fallbacks"),
    ({"llm_config": {"base_url": ["x"]}}, "llm_config.base_url"),
    ({"stt_config": {"provider": "nobody"}}, "stt_config.provider"),
    ({"stt_config": {"realtime": "yes"}}, "stt_config.realtime"),
    ({"stt_config": {"extra": []}}, "stt_config.extra"),
    ({"tts_config": {"voice": 5}}, "tts_config.voice"),
    ({"tts_config": {"rate_hz": 1}}, "tts_config.rate_hz"),
    ({"tts_config": {"timeout": "long"}}, "tts_config.timeout"),
    ({"tools": [{"name": "t", "description": "d", "url": "ftp://x"}]}, "tools[0].url"),
    ({"tools": [{"name": "t", "description": "d", "url": "https://x", "bearer_env": "PATH"}]}, "tools[0].bearer_env"),
]  # fmt: skip


async def test_every_fault_is_told_at_its_path_and_nothing_is_half_applied() -> None:
    async with served() as rest:
        before = (await rest.configure("retail_agent", DOCUMENT)).body
        for fault, path in FAULTS:
            reply = await rest.post(CONFIG, {**DOCUMENT, **fault})
            assert (reply.status, reply.body["code"]) == (400, "invalid_request"), (fault, reply.text)
            assert path in reply.paths, (fault, reply.text)
            assert len(reply.text) < 40_000
        assert (await rest.get("/agents/retail_agent/versions")).body["versions"][-1]["hash"] == before["hash"]


async def test_several_faults_are_told_at_once() -> None:
    async with served() as rest:
        wrong = {"states": [{"name": 1, "description": 2}], "initial_state": 3}
        assert (await rest.post(CONFIG, wrong)).paths == ["states[0].name", "states[0].description", "initial_state"]


async def test_the_largest_document_that_is_allowed_is_taken() -> None:
    async with served() as rest:
        states = [{"name": f"s{at}", "prompt_template": "p" * 4500} for at in range(199)]
        states.append({"name": "n" * 64, "prompt_template": "p" * 65536, "terminal": True})  # type: ignore[dict-item]
        document = {"states": states, "initial_state": "s0"}
        assert 900_000 < len(json.dumps(document)) < 1 << 20
        reply = await rest.post(CONFIG, document)
        assert reply.status == 201
        assert len(reply.body["warnings"]) <= 101
        assert all(len(one) <= 500 for one in reply.body["warnings"])


async def test_long_input_is_not_echoed() -> None:
    async with served() as rest:
        reply = await rest.post(CONFIG, {**DOCUMENT, "x" * 100_000: 1, "llm_config": {"y" * 100_000: 1}})
        assert reply.status == 400
        assert len(reply.text) < 10_000
        reply = await rest.post(CONFIG, {**DOCUMENT, "x" * 100_000: 1})
        assert reply.status == 201
        assert len(reply.text) < 10_000


BODIES: list[tuple[bytes, int]] = [
    (b"", 400),
    (b"{", 400),
    (b"[]", 400),
    (b'"text"', 400),
    (b"null", 400),
    (b"\xff\xfe{}", 400),
    (b'{"states": NaN}', 400),
    (b'{"variables": {"a": Infinity}}', 400),
    (b'{"variables": {"a": 1e999}}', 400),
    (b'{"variables": {"a": ' + b"9" * 5000 + b"}}", 400),
    (b'{"variables": {"a": "\\ud800"}}', 400),
    (b'{"variables": {"\\udfff": 1}}', 400),
    (b'{"initial_state": "a", "initial_state": "b"}', 400),
    (b'{"variables": {"a": 1, "a": 1}}', 400),
    (b'{"variables": ' + b"[" * 32 + b"]" * 32 + b"}", 400),
    (b"[" * 100_000, 400),
    (b'{"variables": {"a": "' + b"x" * (1 << 20) + b'"}}', 413),
]


@pytest.mark.parametrize(("body", "status"), BODIES, ids=lambda value: repr(value)[:40])
async def test_a_body_that_is_no_sound_json_object_is_refused(body: bytes, status: int) -> None:
    async with served(ready=False) as rest:
        reply = await rest.post(CONFIG, data=body, headers={"Content-Type": "application/json"})
        assert (reply.status, reply.body["code"]) == (status, "invalid_request")
        assert len(reply.text) < 1000


async def test_depth_of_thirty_two_is_taken_and_odd_numbers_come_back_as_they_were() -> None:
    deep: Any = 1
    for _ in range(30):
        deep = [deep]
    document = {
        **talker(),
        "variables": {"deep": deep, "big": 10**300, "small": 5e-324, "zero": -0.0, "\u00e9": "\U0001f600"},
    }
    async with served() as rest:
        await rest.configure("odd", document)
        assert (await rest.get("/agents/odd/config")).body["config"] == document
        document["variables"]["deep"] = [deep]
        assert (await rest.post("/agents/odd/config", document)).status == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/yaml"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        {"Content-Type": "application/json", "Content-Encoding": "br"},
    ],
    ids=lambda headers: " ".join(headers.values()),
)
async def test_other_content_types_and_compressed_bodies_are_refused(headers: dict[str, str]) -> None:
    async with served(ready=False) as rest:
        reply = await rest.post(CONFIG, data=json.dumps(DOCUMENT).encode(), headers=headers)
        assert (reply.status, reply.body["code"]) == (415, "invalid_request")


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "application/merge-patch+json"])
async def test_json_under_its_other_names_is_taken(kind: str) -> None:
    async with served() as rest:
        reply = await rest.post(CONFIG, data=json.dumps(DOCUMENT).encode(), headers={"Content-Type": kind})
        assert reply.status == 201


@pytest.mark.parametrize("agent_id", ["-a", ".a", "a" * 65, "a%20b", "a%00b", "a%2Fb", "%C3%A9", "a%0Ab"])
async def test_an_agent_id_of_another_form_is_refused(agent_id: str) -> None:
    async with served() as rest:
        for method, path in (("POST", "config"), ("GET", "config"), ("GET", "diagram"), ("GET", "versions")):
            reply = await rest.ask(method, f"/agents/{agent_id}/{path}", DOCUMENT if method == "POST" else None)
            assert (reply.status, reply.paths) == (400, ["agent_id"])
        assert len(rest.gateway.agents) == 2


async def test_query_parameters_are_checked() -> None:
    async with served(ready=False) as rest:
        for path in (f"{CONFIG}?strict=perhaps", f"{CONFIG}?nonsense=1"):
            assert (await rest.post(path, DOCUMENT)).status == 400
        for path in (
            "/agents/bench/config?version=0",
            "/agents/bench/config?version=x",
            "/agents/bench/diagram?format=png",
        ):
            assert (await rest.get(path)).status == 400


# -- revisions --


async def test_a_live_call_keeps_its_revision_and_new_calls_get_the_new_one() -> None:
    async with served() as rest:
        await rest.configure("posted", talker("First."))
        async with call(rest, "posted") as old:
            assert (await old.spoken())["text"] == "First."
            second = talker("Second.")
            second["states"][1]["say"] = "Second bye."
            await rest.configure("posted", second)
            async with call(rest, "posted") as new:
                assert (await new.spoken())["text"] == "Second."
            await old.send("dtmf", digits="1")
            assert (await old.spoken())["text"] == "Bye now."


async def test_the_same_document_twice_is_the_same_revision() -> None:
    async with served() as rest:
        first = await rest.post(CONFIG, DOCUMENT)
        reordered = dict(reversed(DOCUMENT.items()))
        again = await rest.post(CONFIG, reordered)
        assert (first.status, again.status) == (201, 200)
        assert first.body["hash"] == again.body["hash"]
        assert again.body["version"] == 1
        assert len((await rest.get("/agents/retail_agent/versions")).body["versions"]) == 1


async def test_versions_are_listed_with_their_labels_and_each_can_be_read() -> None:
    async with served() as rest:
        for at in range(3):
            await rest.configure("posted", talker(f"Number {at}.", version=f"1.{at}"))
        entries = (await rest.get("/agents/posted/versions")).body["versions"]
        assert [(one["version"], one["label"], one["active"]) for one in entries] == [
            (1, "1.0", False),
            (2, "1.1", False),
            (3, "1.2", True),
        ]
        assert {one["source"] for one in entries} == {"document"}
        older = (await rest.get("/agents/posted/config?version=2")).body
        assert older["config"]["states"][0]["on_enter"] == "Number 1."
        assert (await rest.get("/agents/posted/config?version=4")).status == 404


async def test_a_rollback_gives_new_calls_the_older_revision_and_the_next_post_counts_on() -> None:
    async with served() as rest:
        first = await rest.configure("posted", talker("First."))
        await rest.configure("posted", talker("Second."))
        back = await rest.post("/agents/posted/rollback", {"version": 1})
        assert (back.status, back.body["version"]) == (200, 1)
        assert back.headers["ETag"] == first.headers["ETag"]
        async with call(rest, "posted") as one:
            assert (await one.spoken())["text"] == "First."
        assert (await rest.post("/agents/posted/config?dry_run=true", talker("Third."))).body["version"] == 3
        assert (await rest.configure("posted", talker("Third."))).body["version"] == 3
        for wrong, status in (({"version": 9}, 404), ({"version": 0}, 400), ({}, 400), ({"version": 1, "x": 1}, 400)):
            assert (await rest.post("/agents/posted/rollback", wrong)).status == status
        assert (await rest.post("/agents/nobody/rollback", {"version": 1})).body["code"] == "agent_not_found"


async def test_if_match_refuses_to_overwrite_what_one_has_not_seen() -> None:
    async with served() as rest:
        assert (await rest.post(CONFIG, DOCUMENT, headers={"If-Match": "*"})).status == 412
        tag = (await rest.post(CONFIG, DOCUMENT)).headers["ETag"]
        assert (await rest.get(CONFIG)).headers["ETag"] == tag
        late = await rest.post(CONFIG, talker(), headers={"If-Match": '"of another one"'})
        assert (late.status, late.body["code"]) == (412, "version_conflict")
        assert late.body["details"] == {"hash": tag.strip('"')}
        assert (await rest.get(CONFIG)).headers["ETag"] == tag
        assert (await rest.post(CONFIG, talker(), headers={"If-Match": f'"x", {tag}'})).status == 201
        assert (await rest.post(CONFIG, DOCUMENT, headers={"If-Match": tag})).status == 412


async def test_a_deleted_agent_is_gone_for_new_calls_and_its_live_call_goes_on() -> None:
    async with served() as rest:
        await rest.configure("posted")
        async with call(rest, "posted") as one:
            await one.spoken()
            gone = await rest.delete("/agents/posted")
            assert (gone.status, gone.body) == (200, {"success": True, "message": "Agent deleted"})
            await one.send("dtmf", digits="1")
            assert (await one.spoken())["heard"] == "Bye now."
            assert (await one.until("session_ended"))["reason"] == "completed"
        for path in ("config", "versions", "diagram"):
            assert (await rest.get(f"/agents/posted/{path}")).body["code"] == "agent_not_found"
        assert (await rest.delete("/agents/posted")).status == 404
        async with rest.http.ws_connect(f"{rest.url}/agent/ws") as socket:
            await socket.send_json({"type": "start_session", "payload": {"agent_id": "posted"}})
            assert (await socket.receive_json())["payload"]["code"] == "agent_not_found"


async def test_the_default_agent_cannot_be_deleted() -> None:
    async with served() as rest:
        refused = await rest.delete("/agents/bench")
        assert (refused.status, refused.body["code"]) == (409, "invalid_state")
        assert "bench" in rest.gateway.agents


async def test_the_list_names_every_agent_and_the_default_one() -> None:
    async with served() as rest:
        await rest.configure("retail_agent", DOCUMENT)
        body = (await rest.get("/agents")).body
        assert body["total_count"] == 3
        entries = {one["agent_id"]: one for one in body["agents"]}
        assert [name for name, one in entries.items() if one["default"]] == ["bench"]
        assert entries["bench"]["source"] == "python"
        posted = entries["retail_agent"]
        assert (posted["source"], posted["states"], posted["initial_state"]) == ("document", 2, "greeting")


async def test_an_agent_made_in_python_has_no_document_but_can_be_replaced_and_brought_back() -> None:
    async with served() as rest:
        rest.gateway.add_agent(agent("handmade", Speaks("By hand.")))
        for path in ("config", "diagram"):
            assert (await rest.get(f"/agents/handmade/{path}")).status == 404
        await rest.configure("handmade", talker("By post."))
        sources = [one["source"] for one in (await rest.get("/agents/handmade/versions")).body["versions"]]
        assert sources == ["python", "document"]
        assert (await rest.post("/agents/handmade/rollback", {"version": 1})).status == 200
        async with call(rest, "handmade") as one:
            assert (await one.spoken())["text"] == "By hand."


async def test_the_diagram_is_an_svg_without_scripts_or_the_mermaid_of_any_version() -> None:
    async with served() as rest:
        document = talker()
        document["states"][0]["name"] = '<script>alert("1")</script>'
        document["initial_state"] = '<script>alert("1")</script>'
        await rest.configure("posted", document)
        await rest.configure("posted", DOCUMENT)
        svg = await rest.get("/agents/posted/diagram")
        assert svg.headers["Content-Type"].startswith("image/svg+xml")
        assert "default-src 'none'" in svg.headers["Content-Security-Policy"]
        assert "collect_info" in svg.text
        assert "<script" not in (await rest.get("/agents/posted/diagram?version=1")).text
        mermaid = await rest.get("/agents/posted/diagram?format=mermaid")
        assert mermaid.headers["Content-Type"].startswith("text/plain")
        assert mermaid.text.startswith("stateDiagram")


async def test_a_picture_of_too_many_transitions_is_refused_and_its_mermaid_is_not() -> None:
    names = [f"s{at}" for at in range(40)]
    document = {"states": [{"name": one, "allowed_transitions": names} for one in names], "initial_state": "s0"}
    async with served() as rest:
        await rest.configure("tangle", document)
        assert (await rest.get("/agents/tangle/diagram")).status == 400
        assert (await rest.get("/agents/tangle/diagram?format=mermaid")).status == 200


SECRETS: dict[str, Any] = {
    "llm_config": {
        "base_url": "http://127.0.0.1:9/v1",
        "api_key": "sekret-1",
        "max_tokens": 5,
        "first_token_s": 2.0,
        "fallbacks": [{"api_key": "sekret-2"}],
        "extra": {"extra_headers": {"X-Whatever": "sekret-3"}},
    },
    "stt_config": {"api_key": "sekret-4"},
    "tts_config": {"api_key_env": "FASTAGENT_SECRET_VOICE"},
    "tools": [
        {
            "name": "look",
            "description": "Looks.",
            "url": "https://example.com/a?x=1&api_key=sekret-5",
            "headers": {
                "Authorization": "Bearer sekret-6",
                "X-Api-Key": "sekret-7",
                "Cookie": "sekret-8",
                "Accept": "*/*",
            },
            "bearer_env": "FASTAGENT_SECRET_LOOK",
        }
    ],
    "variables": {"password": "sekret-9", "tokens": {"access_token": "sekret-0"}, "authenticated": False},
}


async def test_a_configuration_is_shown_without_its_secrets_and_with_all_else() -> None:
    async with served(FASTAGENT_ALLOWED_HOSTS="http://127.0.0.1:9") as rest:
        await rest.configure("posted", talker(**SECRETS))
        shown = await rest.get("/agents/posted/config")
        assert "sekret" not in shown.text
        config = shown.body["config"]
        assert config["llm_config"]["max_tokens"] == 5
        assert config["llm_config"]["first_token_s"] == 2.0
        assert config["tts_config"] == {"api_key_env": "FASTAGENT_SECRET_VOICE"}
        assert config["tools"][0]["url"] == "https://example.com/a?x=1&api_key=***"
        assert config["tools"][0]["headers"]["Accept"] == "*/*"
        assert config["tools"][0]["bearer_env"] == "FASTAGENT_SECRET_LOOK"
        assert config["variables"]["authenticated"] is False
        assert "sekret" not in (await rest.get("/agents")).text
        assert "sekret" not in (await rest.get("/agents/posted/versions")).text
        assert rest.gateway.agents["posted"].llm_config["api_key"] == "sekret-1"


async def test_what_was_shown_masked_does_not_come_back_as_the_secret() -> None:
    async with served(FASTAGENT_ALLOWED_HOSTS="http://127.0.0.1:9") as rest:
        await rest.configure("posted", talker(**SECRETS))
        shown = (await rest.get("/agents/posted/config")).body["config"]
        again = await rest.post("/agents/posted/config", shown)
        assert again.status == 400
        assert {"llm_config.api_key", "llm_config.fallbacks[0].api_key", "tools[0].headers.Authorization"} <= set(
            again.paths
        )
        assert rest.gateway.agents["posted"].llm_config["api_key"] == "sekret-1"


# -- what may not be asked for (S11) --

FORBIDDEN: list[tuple[dict[str, Any], str]] = [
    ({"llm_config": {"base_url": "https://evil.example/v1", "api_key": "k"}}, "llm_config.base_url"),
    ({"llm_config": {"base_url": "http://169.254.169.254/v1", "api_key": "k"}}, "llm_config.base_url"),
    ({"llm_config": {"base_url": "http://good.example/v1", "api_key": "k"}}, "llm_config.base_url"),
    ({"llm_config": {"base_url": "https://good.example:8443/v1", "api_key": "k"}}, "llm_config.base_url"),
    ({"llm_config": {"base_url": "https://user@good.example/v1", "api_key": "k"}}, "llm_config.base_url"),
    ({"llm_config": {"base_url": "https://good.example.evil/v1", "api_key": "k"}}, "llm_config.base_url"),
    ({"llm_config": {"base_url": "https://good.example/v1"}}, "llm_config.base_url"),
    ({"llm_config": {"base_url": "https://good.example/v1", "api_key": ""}}, "llm_config.base_url"),
    ({"llm_config": {"base_url": "https://good.example/v1", "api_key": None}}, "llm_config.base_url"),
    ({"llm_config": {"base_url": ""}}, "llm_config.base_url"),
    ({"llm_config": {"api_key_env": "OPENAI_API_KEY"}}, "llm_config.api_key_env"),
    ({"llm_config": {"api_key_env": "TWILIO_AUTH_TOKEN"}}, "llm_config.api_key_env"),
    ({"llm_config": {"api_key_env": ""}}, "llm_config.api_key_env"),
    ({"llm_config": {"api_key_env": "FASTAGENT_SECRET_A\n"}}, "llm_config.api_key_env"),
    ({"llm_config": {"fallbacks": [{}, {"base_url": "https://evil.example", "api_key": "k"}]}},
     "llm_config.fallbacks[1].base_url"),
    ({"llm_config": {"fallbacks": [{"api_key_env": "PATH"}]}}, "llm_config.fallbacks[0].api_key_env"),
    ({"stt_config": {"base_url": "https://evil.example/v1", "api_key": "k"}}, "stt_config.base_url"),
    ({"stt_config": {"base_url": "wss://good.example/v1", "api_key": "k", "realtime": True}}, "stt_config.base_url"),
    ({"stt_config": {"base_url": "https://good.example/v1"}}, "stt_config.base_url"),
    ({"stt_config": {"api_key_env": "OPENAI_API_KEY"}}, "stt_config.api_key_env"),
    ({"tts_config": {"base_url": "http://localhost:11434/v1", "api_key": "k"}}, "tts_config.base_url"),
    ({"tts_config": {"api_key_env": "FASTAGENT_API_KEYS"}}, "tts_config.api_key_env"),
]  # fmt: skip


async def test_addresses_outside_the_allow_list_and_secrets_of_the_servers_own_are_refused() -> None:
    async with served(FASTAGENT_ALLOWED_HOSTS="good.example", OPENAI_API_KEY=OWN_KEY) as rest:
        for asked, path in FORBIDDEN:
            for query in ("", "?dry_run=true", "?strict=true"):
                reply = await rest.post(f"/agents/posted/config{query}", talker(**asked))
                assert (reply.status, path in reply.paths) == (400, True), (asked, query, reply.text)
                assert OWN_KEY not in reply.text
        assert "posted" not in rest.gateway.agents


ALLOWED: list[dict[str, Any]] = [
    {"llm_config": {"base_url": "https://good.example/v1", "api_key": "k"}},
    {"llm_config": {"base_url": "https://good.example/v1", "api_key_env": "FASTAGENT_SECRET_LLM"}},
    {"llm_config": {"base_url": "https://api.openai.com/v1"}},
    {"llm_config": {"api_key_env": "FASTAGENT_SECRET_LLM"}},
    {"stt_config": {"base_url": "https://a.wild.example/v1", "api_key": "k"}},
    {"tts_config": {"base_url": "http://10.0.0.5:8080/v1", "api_key": "k"}},
]


async def test_what_the_environment_allows_is_taken() -> None:
    hosts = "good.example,*.wild.example,http://10.0.0.5:8080"
    async with served(FASTAGENT_ALLOWED_HOSTS=hosts) as rest:
        for asked in ALLOWED:
            await rest.configure("posted", talker(**asked))


async def test_openai_is_an_address_like_any_other_where_the_environment_names_another_endpoint() -> None:
    async with served(OPENAI_BASE_URL="https://own.example/v1", OPENAI_API_KEY=OWN_KEY) as rest:
        reply = await rest.post(CONFIG, talker(llm_config={"base_url": "https://api.openai.com/v1"}))
        assert reply.paths == ["llm_config.base_url"]
        await rest.configure("retail_agent", talker(llm_config={"base_url": "https://own.example/v1"}))


MODELLED: dict[str, Any] = {
    "states": [{"name": "talk", "on_enter": "Yes?", "prompt_template": "Be kind."}],
    "initial_state": "talk",
}


async def test_the_servers_key_never_goes_to_an_endpoint_that_a_posted_document_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", OWN_KEY)  # where the client library itself would look
    async with fake_openai(ModelReply(text=["I am here."])) as model:
        allowed = model.base_url.removesuffix("/v1")
        configs: list[dict[str, Any]] = [
            {"api_key": "the-documents"},
            {"api_key_env": "FASTAGENT_SECRET_NOT_SET"},
            {"api_key": "the-documents", "extra": {"extra_headers": {"Host": "evil.example"}, "top_p": 0.5}},
        ]
        async with served(OPENAI_API_KEY=OWN_KEY, FASTAGENT_ALLOWED_HOSTS=allowed) as rest:
            for config in configs:
                document = {**MODELLED, "llm_config": {"base_url": model.base_url, **config}}
                await rest.configure("posted", document)
                async with call(rest, "posted") as one:
                    await one.spoken()
                    await one.send("text_input", text="Are you there?")
                    assert (await one.spoken())["heard"] == "I am here."
    assert model.keys == ["Bearer the-documents", "Bearer none", "Bearer the-documents"]
    assert model.requests[2]["top_p"] == 0.5


async def test_a_redirect_of_the_model_endpoint_is_not_followed() -> None:
    visits: list[str] = []

    async def inside(request: web.Request) -> web.Response:
        visits.append(request.headers.get("Authorization", ""))
        return web.Response(text="the metadata service")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", inside)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        target = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/chat/completions"
        for status in (301, 302, 303, 307, 308):
            async with fake_openai(ModelReply(status=status, headers={"Location": target})) as model:
                llm = OpenAiLlm(OpenAiConfig(api_key="the-documents", base_url=model.base_url))
                request = LlmRequest([{"role": "user", "content": "hi"}])
                with pytest.raises(LlmError):
                    _ = [one async for one in llm.stream(request)]
                await llm.aclose()
                assert len(model.requests) == 1
    finally:
        await runner.cleanup()
    assert visits == []


async def test_an_http_tools_address_is_checked_when_it_is_called(caplog: pytest.LogCaptureFixture) -> None:
    tool = {"name": "look", "description": "Looks.", "url": "http://127.0.0.1:9/inside", "method": "GET"}
    document = {**MODELLED, "tools": [tool]}
    document["states"] = [{**MODELLED["states"][0], "tools": ["look"]}]
    replies = (ModelReply(calls=[("look", ["{}"])]), ModelReply(text=["I cannot look."]))
    async with fake_openai(*replies) as model:
        document["llm_config"] = {"base_url": model.base_url, "api_key": "k"}
        async with served(FASTAGENT_ALLOWED_HOSTS=model.base_url.removesuffix("/v1")) as rest:
            await rest.configure("posted", document)
            async with call(rest, "posted") as one:
                await one.spoken()
                await one.send("text_input", text="Look.")
                used = await one.until("tool_call")
                assert used["name"] == "look"
                assert "not allowed" in used["error"]
                assert rest.metric("tool_errors_total") == 1


async def test_a_phone_without_a_place_hears_busy_whatever_agent_it_names() -> None:
    async with served(MAX_SESSIONS=1) as rest:
        await rest.configure("posted")
        async with call(rest, "posted"):
            with pytest.raises(CallRefused, match="busy"):
                async with TwilioPhone(f"{rest.url}/twilio/webhook?agent_id=posted"):
                    pass


async def test_there_is_an_end_to_the_agents_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastagent.gateway.registry._MAX_AGENTS", 3)
    monkeypatch.setattr("fastagent.gateway.registry._MAX_REVISIONS", 3)
    async with served() as rest:
        for at in range(5):
            await rest.configure("posted", talker(f"Number {at}."))
        versions = [one["version"] for one in (await rest.get("/agents/posted/versions")).body["versions"]]
        assert versions == [3, 4, 5]
        full = await rest.post("/agents/one_more/config", talker())
        assert (full.status, full.body["code"]) == (503, "capacity_exceeded")


async def test_two_posts_at_once_are_two_revisions() -> None:
    async with served() as rest:
        replies = await asyncio.gather(*(_accepted(rest, at) for at in range(6)))
        assert sorted(replies) == [1, 2, 3, 4, 5, 6]


async def _accepted(rest: Rest, at: int) -> int:
    return int((await rest.configure("posted", talker(f"Number {at}."))).body["version"])


async def test_documents_have_their_room_and_the_oldest_that_nobody_gets_makes_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = len(json.dumps(talker("x" * 1000), sort_keys=True))
    monkeypatch.setattr("fastagent.gateway.registry._MAX_BYTES", 4 * size)

    async def versions(agent_id: str) -> list[int]:
        return [one["version"] for one in (await rest.get(f"/agents/{agent_id}/versions")).body["versions"]]

    async with served() as rest:
        for letter in "abc":
            await rest.configure("one", talker(letter * 1000))
        await rest.configure("two", talker("d" * 1000))
        await rest.configure("two", talker("e" * 1000))
        assert (await versions("one"), await versions("two")) == ([2, 3], [1, 2])
        assert (await rest.post("/agents/one/rollback", {"version": 2})).status == 200
        await rest.configure("three", talker("f" * 1000))
        assert (await versions("one"), await versions("two")) == ([2], [1, 2])
        await rest.configure("four", talker("g" * 1000))
        full = await rest.post("/agents/five/config", talker("h" * 1000))
        assert (full.status, full.body["code"]) == (503, "capacity_exceeded")
        assert (await rest.configure("one", talker("i" * 1000))).body["version"] == 4
        assert (await versions("one"), await versions("two")) == ([4], [2])
        assert (await rest.delete("/agents/two")).status == 200
        await rest.configure("five", talker("h" * 1000))


async def test_a_large_body_does_not_hold_up_live_calls() -> None:
    """What takes long is done in threads: the loop goes on meanwhile."""
    body = b'{"variables": {"a": [' + b"1," * 500_000 + b"1]}}"
    async with served() as rest:
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                await asyncio.sleep(0)
                beats += 1

        task = asyncio.create_task(beat())
        reply = await rest.post(CONFIG, data=body, headers={"Content-Type": "application/json"})
        task.cancel()
        assert reply.status == 400
        assert beats > 100


def test_likenesses_are_looked_for_only_as_long_as_that_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("difflib.get_close_matches", lambda name, names, most: names[:1])
    targets = [f"nowhere-{at}" for at in range(100)]
    _, problems = examine_document({"states": [{"name": "a", "allowed_transitions": targets}], "initial_state": "a"})
    dangling = [one for one in problems if one.rule == "undefined-target"]
    assert len(dangling) == 100
    assert sum("did you mean" in one.hint for one in dangling) == 20
