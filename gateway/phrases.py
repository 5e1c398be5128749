"""What the gateway itself says when something is slow or goes wrong; rendered at start and kept in memory."""

FILLER = "One moment, please."
APOLOGY = "I'm sorry, something went wrong. Please say that again."
NOT_HEARD = "Sorry, I didn't hear that. Could you say it again?"
NOT_HEARD_KEYS = "Sorry, I still can't hear you well. You can also use your keypad."
GIVE_UP = "I'm sorry, I have a technical problem. Please call again later. Goodbye."
NO_TRANSFER = "I'm sorry, I can't put you through right now."
GOODBYE = "Goodbye."
RESUMED = "Sorry, we were cut off."
CLOSING = "We have to end this call now. Please call again. Goodbye."

ALL = (FILLER, APOLOGY, NOT_HEARD, NOT_HEARD_KEYS, GIVE_UP, NO_TRANSFER, GOODBYE, RESUMED, CLOSING)
