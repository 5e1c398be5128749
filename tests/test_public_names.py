"""The facade: few names, and loaded lazily."""

import subprocess
import sys

import fastagent
import fastagent.afsm
import fastagent.context
import fastagent.telephony


def test_the_public_names_are_these() -> None:
    assert fastagent.__all__ == ["AFSMState", "ConversationContext", "FastAgent", "StateResult"]
    assert {name: getattr(fastagent, name).__module__ for name in fastagent.__all__} == {
        "AFSMState": "fastagent.afsm.state",
        "ConversationContext": "fastagent.afsm.context",
        "FastAgent": "fastagent.gateway.agent",
        "StateResult": "fastagent.afsm.state",
    }
    assert fastagent.context.__all__ == ["ConversationContext"]
    assert fastagent.telephony.__all__ == ["AudioCodesConnector", "AudiocodesConnector", "TwilioConnector"]
    assert fastagent.telephony.AudioCodesConnector is fastagent.telephony.AudiocodesConnector
    assert set(fastagent.__all__) <= set(dir(fastagent))


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(fastagent, "FasterAgent")


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after a statement."""
    code = f"import sys\n{statement}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.split())


HEAVY = {"torch", "twilio", "openai", "av", "ctranslate2", "onnxruntime", "hibari", "tokenizers"}


def test_a_media_module_loads_neither_the_gateway_nor_anything_heavy() -> None:
    loaded = loaded_by("import fastagent.media.g711")
    assert not loaded & (HEAVY | {"aiohttp", "pydantic", "prometheus_client", "soxr"})


def test_the_public_classes_load_nothing_heavy() -> None:
    assert not loaded_by("from fastagent import FastAgent, AFSMState, ConversationContext") & (HEAVY | {"aiohttp"})


def test_the_gateway_loads_models_and_twilio_only_when_they_are_used() -> None:
    assert not loaded_by("import fastagent.gateway.app, fastagent.telephony") & HEAVY
