"""Twilio Programmable Voice with Media Streams."""
