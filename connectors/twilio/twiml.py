"""TwiML, built by the twilio library: values are escaped by an encoder, never joined."""

from collections.abc import Mapping

_MAX_PARAMETER = 500  # name and value of one <Parameter> together stay under this


def connect(stream_url: str, status_url: str, parameters: Mapping[str, str]) -> str:
    """Return TwiML that connects the call to a bidirectional stream, and hangs up when that has ended."""
    from twilio.twiml.voice_response import Connect, VoiceResponse

    response = VoiceResponse()
    verb = Connect()
    stream = verb.stream(url=stream_url, status_callback=status_url, status_callback_method="POST")
    for name, value in parameters.items():
        if len(name) + len(value) < _MAX_PARAMETER:
            stream.parameter(name=name, value=value)
    response.append(verb)
    response.hangup()
    return str(response)


def dial(destination: str, caller_id: str) -> str:
    """Return TwiML that connects the call to a number or a SIP address, and hangs up when they have talked."""
    from twilio.twiml.voice_response import Dial, VoiceResponse

    response = VoiceResponse()
    verb = Dial(caller_id=caller_id) if caller_id else Dial()
    if destination.startswith(("sip:", "sips:")):
        verb.sip(destination)
    else:
        verb.number(destination)
    response.append(verb)
    response.hangup()
    return str(response)


def reject() -> str:
    """Return TwiML that lets the caller hear busy."""
    from twilio.twiml.voice_response import VoiceResponse

    response = VoiceResponse()
    response.reject(reason="busy")
    return str(response)
