"""Digest authentication (RFC 8760 on RFC 3261 section 22; RFC 7616), both sides.

The server keeps nothing for a challenge: a nonce is time, random and an HMAC over both and over who asked, so that a
flood of requests fills no table. Only one that proved a password is remembered, with the count that came last, and only
for its 60 s. A wrong password counts only with a nonce that was given to its sender: whoever forges addresses has none.
"""

import hashlib
import hmac
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from fastagent.connectors.sip.grammar import BLANK, Malformed, quote, split_outside, unquote
from fastagent.connectors.sip.message import Request, Response
from fastagent.connectors.sip.requests import Items
from fastagent.connectors.sip.uri import Uri

Algorithm = Literal["SHA-256", "MD5"]
ALGORITHMS: tuple[Algorithm, ...] = ("SHA-256", "MD5")
NONCE_LIFE_S = 60.0
_MAX_PROVED = 10_000
_HASHES = {"SHA-256": hashlib.sha256, "MD5": hashlib.md5}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a request proves: `user` if it is "right"."""

    kind: Literal["right", "none", "wrong", "stale"]
    user: str = ""


def digest(algorithm: str, *parts: str) -> str:
    """Hash parts that colons join."""
    data = ":".join(parts).encode("utf-8", "surrogateescape")
    return _HASHES[algorithm](data).hexdigest()


def parse_digest(text: str) -> dict[str, str] | None:
    """Read `Digest name=value, name="value"`; None for another scheme, or for what cannot be read."""
    scheme, _, rest = text.strip(BLANK).partition(" ")
    if scheme.lower() != "digest":
        return None
    try:
        pairs = [part.partition("=") for part in split_outside(rest, ",") if part]
    except Malformed:
        return None
    return {name.strip(BLANK).lower(): unquote(value.strip(BLANK)) for name, _, value in pairs}


class DigestServer:
    """The registrar's side of a password check.

    Args:
        realm: what phones show and users' passwords belong to.
        passwords: by user.
        token: random bytes.
        algorithms: in the order of preference; leave MD5 out where no phone needs it.
    """

    def __init__(
        self,
        realm: str,
        passwords: Mapping[str, str],
        token: Callable[[int], bytes],
        *,
        algorithms: tuple[Algorithm, ...] = ALGORITHMS,
    ) -> None:
        self.realm, self._passwords, self._token = realm, passwords, token
        self._algorithms = algorithms
        self._secret = token(32)
        self._nobody = token(16).hex()  # an unknown user's password: as much work, and nobody has it
        self._proved: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """The count that came last, and when the nonce was made."""
        self._floor_s = float("-inf")  # nonces up to here may have been used and forgotten

    def challenges(self, host: str, now: float, *, stale: bool = False) -> Items:
        """Return the headers of a 401 to a host: one per algorithm, the strongest first (RFC 8760 section 2.3)."""
        again = ", stale=true" if stale else ""
        nonce = self._nonce(host, now)
        return tuple(
            (
                "WWW-Authenticate",
                f'Digest realm={quote(self.realm)}, nonce="{nonce}", algorithm={algorithm}, qop="auth"{again}',
            )
            for algorithm in self._algorithms
        )

    def check(self, request: Request, host: str, now: float) -> Verdict:
        """Check a request of a host. An unknown user looks like a wrong password, and costs the same."""
        given = [parse_digest(text) for text in request.headers.get_all("authorization")]
        ours = next((one for one in given if one and one.get("realm") == self.realm), None)
        if ours is None:
            return Verdict("none")
        made = self._made(ours.get("nonce", ""), host)
        if made is None or not 0 <= now - made <= NONCE_LIFE_S:
            return Verdict("stale")  # whatever the password: it must not tell anybody which one is right
        if not self._is_right(ours, request):
            return Verdict("wrong")
        if not self._is_new(ours, made, now):
            return Verdict("stale")
        return Verdict("right", ours["username"])

    def _is_right(self, given: Mapping[str, str], request: Request) -> bool:
        algorithm = given.get("algorithm", "MD5").upper()
        if algorithm not in self._algorithms or given.get("qop", "auth") != "auth":
            return False
        user, nonce, uri = given.get("username", ""), given.get("nonce", ""), given.get("uri", "")
        password = self._passwords.get(user, self._nobody)
        expected = respond(algorithm, (user, self.realm, password), request.method, uri, given, nonce)
        same = hmac.compare_digest(expected.encode(), given.get("response", "").lower().encode("utf-8", "replace"))
        return same and user in self._passwords and _same_target(uri, request.uri)

    def _is_new(self, given: Mapping[str, str], made: float, now: float) -> bool:
        """Whether a nonce's count is new. Without `qop` there is no count: one use a nonce."""
        nonce = given["nonce"]
        if made <= self._floor_s and nonce not in self._proved:
            return False
        text = given.get("nc", "") if "qop" in given else "1"
        count = int(text, 16) if len(text) <= 8 and all(one in "0123456789abcdefABCDEF" for one in text) and text else 0
        if count <= self._proved.get(nonce, (0, 0.0))[0]:
            return False
        self._remember(nonce, count, made, now)
        return True

    def _remember(self, nonce: str, count: int, made: float, now: float) -> None:
        self._proved[nonce] = (count, made)
        self._proved.move_to_end(nonce)
        while self._proved:
            oldest, (_, made) = next(iter(self._proved.items()))
            if len(self._proved) <= _MAX_PROVED and now - made <= NONCE_LIFE_S:
                break
            del self._proved[oldest]
            self._floor_s = max(self._floor_s, made)

    def _nonce(self, host: str, now: float) -> str:
        head = f"{int(now * 1000)}-{self._token(8).hex()}"
        return f"{head}-{self._seal(head, host)}"

    def _made(self, nonce: str, host: str) -> float | None:
        """Return when we made a nonce for a host; None where we did not."""
        head, _, seal = nonce.rpartition("-")
        if not hmac.compare_digest(seal.encode("utf-8", "replace"), self._seal(head, host).encode()):
            return None
        return int(head.partition("-")[0]) / 1000

    def _seal(self, head: str, host: str) -> str:
        text = f"{head}\0{host}".encode("utf-8", "surrogateescape")
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()[:32]


def respond(
    algorithm: str, secret: tuple[str, str, str], method: str, uri: str, given: Mapping[str, str], nonce: str
) -> str:
    """Return the response: the one of `qop=auth`, or where there is no qop the older one (RFC 2617)."""
    ha1, ha2 = digest(algorithm, *secret), digest(algorithm, method, uri)
    if "qop" not in given:
        return digest(algorithm, ha1, nonce, ha2)
    return digest(algorithm, ha1, nonce, given.get("nc", ""), given.get("cnonce", ""), given["qop"], ha2)


def _same_target(proved: str, asked: str) -> bool:
    """Whether both name one user at one host; phones drop or add ports and parameters."""
    try:
        left, right = Uri.parse(proved), Uri.parse(asked)
    except Malformed:
        return False
    return (left.user_text, left.host.lower()) == (right.user_text, right.host.lower())


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who we are at a provider."""

    user: str
    password: str = field(repr=False)


Place = tuple[str, str]
"""Which header a proof goes into, and the realm it is for: proxies and servers ask for their own (section 22.3)."""
Tries = Counter[Place]
"""How often one request was challenged; a new one for each."""
_MAX_TRIES, _MAX_CHALLENGES = 2, 4
_ALL = ("", "")
_MAX_PLACES = 4


@dataclass(slots=True)
class _Answer:
    given: dict[str, str]
    count: int = 0


@dataclass(slots=True)
class DigestClient:
    """Our side: answer challenges, and use a nonce again with a rising count."""

    credentials: Credentials
    token: Callable[[int], bytes]
    _answers: dict[Place, _Answer] = field(default_factory=dict)

    def take(self, response: Response, tries: Tries) -> bool:
        """Take a 401 or 407; False where it is no use to try again: two failures with nonces of the other side are a
        wrong password, and nobody is asked for ever, not even for nonces that are always old.

        Args:
            response: the challenge.
            tries: of the request that it answers.
        """
        best = _best(response)
        if best is None:
            return False
        place = "Proxy-Authorization" if response.status == 407 else "Authorization", best["realm"]
        self._answers.pop(place, None)
        self._answers[place] = _Answer(best)
        while len(self._answers) > _MAX_PLACES:
            del self._answers[next(iter(self._answers))]
        tries[place] += best.get("stale", "").lower() != "true"
        tries[_ALL] += 1
        return tries[place] <= _MAX_TRIES and tries[_ALL] <= _MAX_CHALLENGES

    def items(self, method: str, uri: str) -> Items:
        """Return the headers that prove who we are; none before the first challenge."""
        return tuple((header, self._proof(answer, method, uri)) for (header, _), answer in self._answers.items())

    def _proof(self, answer: _Answer, method: str, uri: str) -> str:
        answer.count += 1
        given = answer.given
        mine = {"nc": f"{answer.count:08x}", "cnonce": self.token(8).hex(), "qop": "auth"} if "qop" in given else {}
        secret = (self.credentials.user, given["realm"], self.credentials.password)
        algorithm = _algorithm(given)
        response = respond(algorithm, secret, method, uri, mine, given["nonce"])
        parts = [
            f"username={quote(self.credentials.user)}",
            f"realm={quote(given['realm'])}",
            f"nonce={quote(given['nonce'])}",
            f"uri={quote(uri)}",
            f'response="{response}"',
            f"algorithm={algorithm}",
        ]
        if mine:
            parts.append(f'qop=auth, nc={mine["nc"]}, cnonce="{mine["cnonce"]}"')
        if "opaque" in given:
            parts.append(f"opaque={quote(given['opaque'])}")
        return f"Digest {', '.join(parts)}"


def is_final(response: Response) -> bool:
    """Whether a challenge that is not answered any more says that the password is wrong, not that the nonce is old."""
    best = _best(response)
    return best is None or best.get("stale", "").lower() != "true"


def _best(response: Response) -> dict[str, str] | None:
    """The strongest challenge that we can answer."""
    texts = response.headers.get_all("proxy-authenticate" if response.status == 407 else "www-authenticate")
    given = [one for text in texts if (one := parse_digest(text)) and _usable(one)]
    return min(given, key=lambda one: ALGORITHMS.index(_algorithm(one)), default=None)


def _algorithm(given: Mapping[str, str]) -> Algorithm:
    return "SHA-256" if given.get("algorithm", "MD5").upper() == "SHA-256" else "MD5"


def _usable(given: Mapping[str, str]) -> bool:
    known = given.get("algorithm", "MD5").upper() in ALGORITHMS
    qops = [one.strip(BLANK).lower() for one in given.get("qop", "auth").split(",")]
    return known and "realm" in given and bool(given.get("nonce")) and "auth" in qops


__all__ = ["ALGORITHMS", "Credentials", "DigestClient", "DigestServer", "Tries", "Verdict"]
