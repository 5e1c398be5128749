"""AudioCodes VoiceAI Connect and Live Hub: the Bot API in both of its modes."""
