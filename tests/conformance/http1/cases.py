"""Raw requests and what has to come of them: the conformance list of the HTTP data plane.

How to read a row: what it is; the bytes; the section that decides; the statuses of the answers, in order and 100
included; whether the connection stays. In the bytes, `|` is CRLF, `§` is a path that answers 200 to every method, and
`¶` waits until the server has seen what comes before.

The list is run against nginx as well. Where nginx does otherwise, the row holds what nginx does and why we differ.
"""

from dataclasses import dataclass

OPEN, CLOSED = True, False

PATH = "/api/segment/get/o"


@dataclass(frozen=True)
class Case:
    """One row."""

    name: str
    text: str
    section: str
    statuses: tuple[int, ...]
    stays: bool
    nginx: tuple[tuple[int, ...], bool] | None = None
    why: str = ""

    @property
    def raw(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def pieces(self) -> list[bytes]:
        """The bytes as they are sent, one after the other was seen."""
        return [piece.replace("|", "\r\n").replace("§", PATH).encode("latin-1") for piece in self.text.split("¶")]


def _rows() -> list[Case]:
    rows: list[Case] = []

    def row(
        name: str,
        text: str,
        section: str,
        statuses: int | tuple[int, ...],
        stays: bool,
        nginx: tuple[int | tuple[int, ...], bool] | None = None,
        why: str = "",
    ) -> None:
        several = statuses if isinstance(statuses, tuple) else (statuses,)
        other = None if nginx is None else (nginx[0] if isinstance(nginx[0], tuple) else (nginx[0],), nginx[1])
        rows.append(Case(name, text, section, several, stays, other, why))

    # fmt: off
    # --- methods ---
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
        row(f"method {method}", f"{method} § HTTP/1.1|Host: a||", "9110 9.3", 200, OPEN)
    row("method OPTIONS", "OPTIONS § HTTP/1.1|Host: a||", "9110 9.3.7", 200, OPEN)
    row("OPTIONS for the whole server", "OPTIONS * HTTP/1.1|Host: a||", "9110 9.3.7", 200, OPEN, (400, CLOSED),
        "nginx has no asterisk form")
    row("the asterisk with another method", "GET * HTTP/1.1|Host: a||", "9112 3.2.4", 400, CLOSED)
    row("a method known but not had", "TRACE § HTTP/1.1|Host: a||", "9110 15.5.6", 405, OPEN, (405, CLOSED),
        "nginx closes after refusing TRACE; the request was read whole, so that there is no need")
    row("a method unheard of", "BREW § HTTP/1.1|Host: a||", "9110 15.6.2", 501, OPEN, (200, OPEN),
        "nginx leaves the method to the location")
    row("a method in lower case", "get § HTTP/1.1|Host: a||", "9110 9.1", 501, OPEN, (400, CLOSED),
        "a method is any token and case matters: it is one unheard of")
    row("a method with token marks", "M-SEARCH! § HTTP/1.1|Host: a||", "9110 5.6.2", 501, OPEN, (400, CLOSED),
        "nginx takes only letters, _ and - in a method")
    row("a method with a colon", "GE:T § HTTP/1.1|Host: a||", "9112 3.1", 400, CLOSED)
    row("a method with a control character", "GE\x01T § HTTP/1.1|Host: a||", "9112 3.1", 400, CLOSED)
    row("an empty method", " § HTTP/1.1|Host: a||", "9112 3.1", 400, CLOSED)
    row("CONNECT to an authority", "CONNECT a:80 HTTP/1.1|Host: a:80||", "9110 9.3.6", 501, CLOSED, (400, CLOSED),
        "nginx knows no authority form; the request is well formed, and what it asks for is not here")
    row("CONNECT with a path", "CONNECT § HTTP/1.1|Host: a||", "9110 9.3.6", 501, CLOSED, (405, CLOSED),
        "an origin server that has no CONNECT for anything says 501")
    row("a body after CONNECT is not a request", "CONNECT a:80 HTTP/1.1|Host: a||GET § HTTP/1.1|Host: a||",
        "9110 9.3.6", 501, CLOSED, (400, CLOSED), "as above")

    # --- request line ---
    row("two spaces before the target", "GET  § HTTP/1.1|Host: a||", "9112 3", 400, CLOSED, (200, OPEN),
        "nginx skips spaces; readers that don't see another target")
    row("two spaces before the version", "GET §  HTTP/1.1|Host: a||", "9112 3", 400, CLOSED, (200, OPEN), "as above")
    row("a tab for a space", "GET\t§ HTTP/1.1|Host: a||", "9112 3", 400, CLOSED)
    row("a space at the end", "GET § HTTP/1.1 |Host: a||", "9112 3", 400, CLOSED, (200, OPEN),
        "nginx skips spaces there; nobody sends them")
    row("a space before the method", "  GET § HTTP/1.1|Host: a||", "9112 3", 400, CLOSED)
    row("a space in the target", "GET § b HTTP/1.1|Host: a||", "9112 3.2", 400, CLOSED)
    row("no target", "GET HTTP/1.1|Host: a||", "9112 3", 400, CLOSED)
    row("no version: HTTP/0.9", "GET §||", "9112 2.3", 400, CLOSED, ((), CLOSED),
        "nginx still speaks HTTP/0.9, which has no status line")
    row("only a method", "GET|Host: a||", "9112 3", 400, CLOSED)
    row("no line at all but words", "hello world||", "9112 3", 400, CLOSED)
    row("one empty line before", "|GET § HTTP/1.1|Host: a||", "9112 2.2", 200, OPEN)
    row("several empty lines before", "||||GET § HTTP/1.1|Host: a||", "9112 2.2", 200, OPEN)
    row("an empty line between two", "GET § HTTP/1.1|Host: a|||GET § HTTP/1.1|Host: a||", "9112 2.2", (200, 200), OPEN)
    row("an empty line that ends in LF alone", "\nGET § HTTP/1.1|Host: a||", "9112 2.2", 400, CLOSED, (200, OPEN),
        "nginx takes LF for CRLF; a line end that readers see differently splits requests")
    row("the request line ends in LF alone", "GET § HTTP/1.1\nHost: a||", "9112 2.2", 400, CLOSED, (200, OPEN),
        "as above")
    row("the request line ends in CR alone", "GET § HTTP/1.1\rHost: a||", "9112 2.2", 400, CLOSED)
    row("CR CR LF", "GET § HTTP/1.1\r|Host: a||", "9112 2.2", 400, CLOSED)
    row("NUL in the target", "GET §\x00 HTTP/1.1|Host: a||", "9112 3.2", 400, CLOSED)
    row("a control character in the target", "GET §\x1f HTTP/1.1|Host: a||", "9112 3.2", 400, CLOSED)
    row("DEL in the target", "GET §\x7f HTTP/1.1|Host: a||", "9112 3.2", 400, CLOSED)
    row("a tab in the target", "GET §\tb HTTP/1.1|Host: a||", "9112 3.2", 400, CLOSED)
    row("a fragment in the target", "GET §#b HTTP/1.1|Host: a||", "9112 3.2", 400, CLOSED, (200, OPEN),
        "nginx cuts the fragment off; no client may send one, and readers differ on what is left")
    row("a TLS greeting", "\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03||", "9112 3", 400, CLOSED)
    row("an HTTP/2 greeting", "PRI * HTTP/2.0||SM||", "9113 3.4", 505, CLOSED, (400, CLOSED),
        "nginx has no asterisk form, so it does not come as far as the version")
    row("binary noise", "\x80\xff\xfe\x00\x01||", "9112 3", 400, CLOSED)

    # --- version ---
    row("HTTP/1.0", "GET § HTTP/1.0||", "9112 9.3", 200, CLOSED)
    row("HTTP/1.0 with Host", "GET § HTTP/1.0|Host: a||", "9112 9.3", 200, CLOSED)
    row("HTTP/1.0 that keeps the connection", "GET § HTTP/1.0|Connection: keep-alive||", "9112 9.3", 200, OPEN)
    row("HTTP/1.0 that keeps it, in capitals", "GET § HTTP/1.0|Connection: Keep-Alive||", "9110 7.6.1", 200, OPEN)
    row("HTTP/1.0 twice, keeping it", "GET § HTTP/1.0|Connection: keep-alive||GET § HTTP/1.0||", "9112 9.3", (200, 200),
        CLOSED)
    row("HTTP/1.0, what follows is not answered", "GET § HTTP/1.0||GET § HTTP/1.0||", "9112 9.3", 200, CLOSED)
    row("HTTP/1.2 is taken for 1.1", "GET § HTTP/1.2|Host: a||", "9110 2.5", 200, OPEN)
    row("HTTP/1.9 is taken for 1.1", "GET § HTTP/1.9|Host: a||", "9110 2.5", 200, OPEN)
    row("HTTP/2.0", "GET § HTTP/2.0|Host: a||", "9110 15.6.6", 505, CLOSED)
    row("HTTP/0.9 by name", "GET § HTTP/0.9|Host: a||", "9110 15.6.6", 505, CLOSED, (400, CLOSED),
        "nginx calls it malformed; it is a version that is not spoken here")
    row("HTTP/3.0", "GET § HTTP/3.0|Host: a||", "9110 15.6.6", 505, CLOSED)
    row("HTTP/9.9", "GET § HTTP/9.9|Host: a||", "9110 15.6.6", 505, CLOSED)
    row("a version without minor", "GET § HTTP/1|Host: a||", "9112 2.3", 400, CLOSED)
    row("a version with two digits", "GET § HTTP/1.10|Host: a||", "9112 2.3", 400, CLOSED, (200, OPEN),
        "nginx reads more digits than a version has")
    row("a version with leading zero", "GET § HTTP/01.1|Host: a||", "9112 2.3", 400, CLOSED)
    row("a version in lower case", "GET § http/1.1|Host: a||", "9112 2.3", 400, CLOSED)
    row("a version with a space", "GET § HTTP/ 1.1|Host: a||", "9112 2.3", 400, CLOSED)
    row("a version with a comma", "GET § HTTP/1,1|Host: a||", "9112 2.3", 400, CLOSED)
    row("another protocol", "GET § RTSP/1.0|Host: a||", "9112 2.3", 400, CLOSED)
    row("a sign in the version", "GET § HTTP/+1.1|Host: a||", "9112 2.3", 400, CLOSED)

    # --- target ---
    row("a query", "GET §?a=b HTTP/1.1|Host: a||", "9112 3.2.1", 200, OPEN)
    row("an empty query", "GET §? HTTP/1.1|Host: a||", "9112 3.2.1", 200, OPEN)
    row("question marks in the query", "GET §?a=b?c HTTP/1.1|Host: a||", "3986 3.4", 200, OPEN)
    row("an escape", "GET /api/segment/get/%6f HTTP/1.1|Host: a||", "3986 2.1", 200, OPEN)
    row("an escape in lower case", "GET /api/segment/get/%6F HTTP/1.1|Host: a||", "3986 2.1", 200, OPEN)
    row("half an escape", "GET /api/segment/get/%6 HTTP/1.1|Host: a||", "3986 2.1", 400, OPEN, (400, CLOSED),
        "nginx closes after each 400; the framing of this one is not in doubt")
    row("an escape of no digits", "GET /api/segment/get/%zz HTTP/1.1|Host: a||", "3986 2.1", 400, OPEN, (400, CLOSED),
        "as above")
    row("an escaped NUL", "GET /api/segment/get/%00 HTTP/1.1|Host: a||", "3986 2.1", 400, OPEN, (400, CLOSED),
        "as above")
    row("raw UTF-8 in the query", "GET §?\xe8\xae\xa2 HTTP/1.1|Host: a||", "9112 3.2", 200, OPEN)
    row("delimiters in the query", "GET §?a[]={}&b=<>\"'\\^` HTTP/1.1|Host: a||", "9112 3.2", 200, OPEN)
    row("absolute form", "GET http://a§ HTTP/1.1|Host: a||", "9112 3.2.2", 200, OPEN)
    row("absolute form with a port", "GET http://a:8080§ HTTP/1.1|Host: a:8080||", "9112 3.2.2", 200, OPEN)
    row("absolute form, https", "GET https://a§ HTTP/1.1|Host: a||", "9112 3.2.2", 200, OPEN)
    row("absolute form in capitals", "GET HTTP://A§ HTTP/1.1|Host: a||", "3986 6.2.2.1", 200, OPEN)
    row("absolute form, an address of IPv6", "GET http://[::1]:80§ HTTP/1.1|Host: [::1]:80||", "9112 3.2.2", 200, OPEN)
    row("absolute form, its host beats Host", "GET http://b§ HTTP/1.1|Host: a||", "9112 3.2.2", 200, OPEN)
    row("absolute form without a path", "OPTIONS http://a HTTP/1.1|Host: a||", "9112 3.2.4", 200, OPEN)
    row("absolute form without Host", "GET http://a§ HTTP/1.1||", "9112 3.2", 400, CLOSED)
    row("absolute form without a host", "GET http://§ HTTP/1.1|Host: a||", "9110 4.2.1", 400, CLOSED)
    row("absolute form with a user", "GET http://u@a§ HTTP/1.1|Host: a||", "9110 4.2.4", 400, CLOSED)
    row("absolute form, another scheme", "GET ftp://a§ HTTP/1.1|Host: a||", "9112 3.2.2", 400, CLOSED, (200, OPEN),
        "nginx ignores the scheme; what an ftp resource is asked for here is anybody's guess")
    row("absolute form with half a bracket", "GET http://[::1§ HTTP/1.1|Host: a||", "3986 3.2.2", 400, CLOSED)
    row("authority form with GET", "GET a:80 HTTP/1.1|Host: a||", "9112 3.2.3", 400, CLOSED)
    row("a relative target", "GET o HTTP/1.1|Host: a||", "9112 3.2", 400, CLOSED)

    # --- Host ---
    row("no Host", "GET § HTTP/1.1||", "9112 3.2", 400, CLOSED)
    row("no Host among others", "GET § HTTP/1.1|Accept: */*||", "9112 3.2", 400, CLOSED)
    row("an empty Host", "GET § HTTP/1.1|Host:||", "9110 4.2.1", 400, CLOSED)
    row("a Host of white space", "GET § HTTP/1.1|Host: \t ||", "9110 4.2.1", 400, CLOSED)
    row("two Hosts", "GET § HTTP/1.1|Host: a|Host: b||", "9112 3.2", 400, CLOSED)
    row("two equal Hosts", "GET § HTTP/1.1|Host: a|Host: a||", "9112 3.2", 400, CLOSED)
    row("two Hosts, apart and in other letters", "GET § HTTP/1.1|HOST: a|Accept: */*|host: a||", "9112 3.2",
        400, CLOSED)
    row("two Hosts in HTTP/1.0", "GET § HTTP/1.0|Host: a|Host: b||", "9112 3.2", 400, CLOSED)
    row("Host with a port", "GET § HTTP/1.1|Host: a:8080||", "9110 7.2", 200, OPEN)
    row("Host with an empty port", "GET § HTTP/1.1|Host: a:||", "3986 3.2.3", 200, OPEN)
    row("Host of IPv4", "GET § HTTP/1.1|Host: 127.0.0.1:80||", "9110 7.2", 200, OPEN)
    row("Host of IPv6", "GET § HTTP/1.1|Host: [::1]:80||", "9110 7.2", 200, OPEN)
    row("Host without white space before it", "GET § HTTP/1.1|Host:a||", "9112 5.1", 200, OPEN)
    row("Host between white space", "GET § HTTP/1.1|Host: \t a \t ||", "9112 5.1", 200, OPEN,
        (400, CLOSED), "nginx takes only spaces for the white space around a value")
    row("host in small letters", "GET § HTTP/1.1|host: a||", "9110 5.1", 200, OPEN)
    row("HOST in capitals", "GET § HTTP/1.1|HOST: a||", "9110 5.1", 200, OPEN)
    row("Host after others", "GET § HTTP/1.1|Accept: */*|User-Agent: x|Host: a||", "9110 5.3", 200, OPEN)
    row("Host with a space", "GET § HTTP/1.1|Host: a b||", "9112 3.2", 400, CLOSED)
    row("Host with a slash", "GET § HTTP/1.1|Host: a/b||", "9112 3.2", 400, CLOSED)
    row("Host with a user", "GET § HTTP/1.1|Host: u@a||", "9112 3.2", 400, CLOSED, (200, OPEN),
        "nginx looks for slashes and control characters only; a host with a user is none")
    row("Host with a comma list", "GET § HTTP/1.1|Host: a, b||", "9112 3.2", 400, CLOSED)
    row("Host with a port of letters", "GET § HTTP/1.1|Host: a:b||", "9112 3.2", 400, CLOSED, (200, OPEN),
        "nginx takes what follows a colon for a port whatever it is")
    row("Host with two ports", "GET § HTTP/1.1|Host: a:1:2||", "9112 3.2", 400, CLOSED, (200, OPEN), "as above")
    row("Host with a query", "GET § HTTP/1.1|Host: a?b||", "9112 3.2", 400, CLOSED, (200, OPEN),
        "nginx looks for slashes and control characters only")
    row("Host with a bracket left open", "GET § HTTP/1.1|Host: [::1||", "9112 3.2", 400, CLOSED,
        (200, OPEN), "nginx looks for slashes and control characters only")
    row("Host that begins with a dot", "GET § HTTP/1.1|Host: .||", "9112 3.2", 200, OPEN, (400, CLOSED),
        "nginx looks servers up by name, in which a lone dot is nothing; a reg-name may be one")
    row("Host with NUL", "GET § HTTP/1.1|Host: a\x00b||", "9112 3.2", 400, CLOSED)
    row("Host in UTF-8", "GET § HTTP/1.1|Host: \xc3\xa4||", "9112 3.2", 400, CLOSED, (200, OPEN),
        "nginx looks for slashes and control characters only")

    # --- header lines ---
    row("an empty value", "GET § HTTP/1.1|Host: a|X:||", "9112 5", 200, OPEN)
    row("a value of white space", "GET § HTTP/1.1|Host: a|X: \t ||", "9112 5.1", 200, OPEN)
    row("a value with a tab", "GET § HTTP/1.1|Host: a|X: a\tb||", "9110 5.5", 200, OPEN)
    row("a value in Latin-1", "GET § HTTP/1.1|Host: a|X: \xe4\xff||", "9110 5.5", 200, OPEN)
    row("a value with colons", "GET § HTTP/1.1|Host: a|X: a:b:c||", "9112 5", 200, OPEN)
    row("a name of token marks", "GET § HTTP/1.1|Host: a|!#$%&'*+-.^_`~: 1||", "9110 5.6.2", 200, OPEN)
    row("a name with an underscore", "GET § HTTP/1.1|Host: a|x_y: 1||", "9110 5.6.2", 200, OPEN)
    row("a name of digits", "GET § HTTP/1.1|Host: a|123: 1||", "9110 5.6.2", 200, OPEN)
    row("the same header twice", "GET § HTTP/1.1|Host: a|X: 1|X: 2||", "9110 5.3", 200, OPEN)
    row("a space before the colon", "GET § HTTP/1.1|Host: a|X : 1||", "9112 5.1", 400, CLOSED)
    row("a tab before the colon", "GET § HTTP/1.1|Host: a|X\t: 1||", "9112 5.1", 400, CLOSED)
    row("a space before the colon of Host", "GET § HTTP/1.1|Host : a||", "9112 5.1", 400, CLOSED)
    row("no name", "GET § HTTP/1.1|Host: a|: 1||", "9112 5", 400, CLOSED)
    row("no colon", "GET § HTTP/1.1|Host: a|nonsense||", "9112 5", 400, CLOSED, (200, OPEN), "nginx leaves it out")
    row("a space in a name", "GET § HTTP/1.1|Host: a|a b: 1||", "9112 5.1", 400, CLOSED)
    row("brackets in a name", "GET § HTTP/1.1|Host: a|a(b): 1||", "9110 5.1", 400, CLOSED, (200, OPEN),
        "nginx leaves it out")
    row("a quote in a name", 'GET § HTTP/1.1|Host: a|"a": 1||', "9110 5.1", 400, CLOSED, (200, OPEN),
        "nginx leaves it out")
    row("UTF-8 in a name", "GET § HTTP/1.1|Host: a|\xc3\xa4: 1||", "9110 5.1", 400, CLOSED, (200, OPEN),
        "nginx leaves it out")
    row("NUL in a name", "GET § HTTP/1.1|Host: a|a\x00b: 1||", "9110 5.5", 400, CLOSED)
    row("NUL in a value", "GET § HTTP/1.1|Host: a|X: a\x00b||", "9110 5.5", 400, CLOSED)
    row("a control character in a value", "GET § HTTP/1.1|Host: a|X: a\x01b||", "9110 5.5", 400, CLOSED, (200, OPEN),
        "nginx refuses NUL only")
    row("DEL in a value", "GET § HTTP/1.1|Host: a|X: a\x7fb||", "9110 5.5", 400, CLOSED, (200, OPEN),
        "nginx refuses NUL only")
    row("CR in a value", "GET § HTTP/1.1|Host: a|X: a\rb||", "9110 5.5", 400, CLOSED)
    row("LF in a value", "GET § HTTP/1.1|Host: a|X: a\nb: c||", "9112 2.2", 400, CLOSED, (200, OPEN),
        "nginx takes LF for CRLF")
    row("a header line ends in LF alone", "GET § HTTP/1.1|Host: a\nX: 1||", "9112 2.2", 400, CLOSED, (200, OPEN),
        "nginx takes LF for CRLF")
    row("the head ends in LF alone", "GET § HTTP/1.1|Host: a|\n", "9112 2.2", 400, CLOSED, (200, OPEN),
        "nginx takes LF for CRLF")
    row("the head ends in LF LF", "GET § HTTP/1.1\nHost: a\n\n", "9112 2.2", 400, CLOSED, (200, OPEN),
        "nginx takes LF for CRLF")
    row("the head ends in CR", "GET § HTTP/1.1|Host: a|\rX: 1||", "9112 2.2", 400, CLOSED)
    row("a folded line", "GET § HTTP/1.1|Host: a|X: 1| 2||", "9112 5.2", 400, CLOSED)
    row("a line folded by a tab", "GET § HTTP/1.1|Host: a|X: 1|\t2||", "9112 5.2", 400, CLOSED)
    row("a folded Host", "GET § HTTP/1.1|Host:| a||", "9112 5.2", 400, CLOSED)
    row("white space before the first header", "GET § HTTP/1.1| Host: a||", "9112 2.2", 400, CLOSED)
    row("a line of white space", "GET § HTTP/1.1|Host: a|  ||", "9112 5", 400, CLOSED)

    # --- limits ---
    row("a long target", f"GET §?{'a' * 4000} HTTP/1.1|Host: a||", "9112 3", 200, OPEN)
    row("a target too long", f"GET §?{'a' * 8192} HTTP/1.1|Host: a||", "9110 15.5.15", 414, CLOSED)
    row("a method too long", f"{'A' * 9000} § HTTP/1.1|Host: a||", "9112 3", 414, CLOSED)
    row("a long header", f"GET § HTTP/1.1|Host: a|X: {'a' * 4000}||", "6585 5", 200, OPEN)
    row("a header too long", f"GET § HTTP/1.1|Host: a|X: {'a' * 8192}||", "6585 5", 431, CLOSED, (400, CLOSED),
        "nginx writes 400 on the wire for its own 494")
    row("a name too long", f"GET § HTTP/1.1|Host: a|{'a' * 9000}: 1||", "6585 5", 431, CLOSED,
        (400, CLOSED), "as above")
    row("headers too large together", "GET § HTTP/1.1|Host: a|" + f"X: {'a' * 1000}|" * 17 + "|", "6585 5", 431, CLOSED,
        (200, OPEN), "nginx allows 32 KB; nobody needs more than 16 here")
    row("a hundred headers", "GET § HTTP/1.1|Host: a|" + "X: 1|" * 99 + "|", "6585 5", 200, OPEN)
    row("more than a hundred headers", "GET § HTTP/1.1|Host: a|" + "X: 1|" * 100 + "|", "6585 5", 431, CLOSED,
        (200, OPEN), "nginx counts bytes only; each line costs time and memory of its own")

    # --- Connection ---
    row("close", "GET § HTTP/1.1|Host: a|Connection: close||", "9112 9.6", 200, CLOSED)
    row("close in capitals", "GET § HTTP/1.1|Host: a|CONNECTION: CLOSE||", "9110 7.6.1", 200, CLOSED)
    row("close, what follows is not answered", "GET § HTTP/1.1|Host: a|Connection: close||GET § HTTP/1.1|Host: a||",
        "9112 9.6", 200, CLOSED)
    row("keep-alive", "GET § HTTP/1.1|Host: a|Connection: keep-alive||", "9112 9.3", 200, OPEN)
    row("close in a list", "GET § HTTP/1.1|Host: a|Connection: x, close||", "9110 7.6.1", 200, CLOSED)
    row("close beats keep-alive", "GET § HTTP/1.1|Host: a|Connection: keep-alive, close||", "9112 9.3", 200, CLOSED)
    row("close in a second line", "GET § HTTP/1.1|Host: a|Connection: x|Connection: close||", "9110 5.3", 200, CLOSED)
    row("close beats keep-alive in HTTP/1.0", "GET § HTTP/1.0|Connection: keep-alive, close||", "9112 9.3", 200, CLOSED)
    row("a word that only begins like close", "GET § HTTP/1.1|Host: a|Connection: closed||", "9110 7.6.1", 200, OPEN,
        (200, CLOSED), "nginx looks for the letters anywhere in the value")
    row("an empty Connection", "GET § HTTP/1.1|Host: a|Connection:||", "9110 7.6.1", 200, OPEN)
    row("other options", "GET § HTTP/1.1|Host: a|Connection: foo, bar||", "9110 7.6.1", 200, OPEN)
    row("Upgrade to HTTP/2",
        "GET § HTTP/1.1|Host: a|Connection: Upgrade, HTTP2-Settings|Upgrade: h2c|HTTP2-Settings: AAAA||", "9110 7.8",
        200, OPEN)
    row("Upgrade to WebSocket", "GET § HTTP/1.1|Host: a|Connection: Upgrade|Upgrade: websocket||", "9110 7.8",
        200, OPEN)
    row("Upgrade with a body", "POST § HTTP/1.1|Host: a|Connection: Upgrade|Upgrade: x|Content-Length: 2||hi",
        "9110 7.8", 200, OPEN)
    row("Keep-Alive parameters", "GET § HTTP/1.1|Host: a|Keep-Alive: timeout=5||", "9112 9.3", 200, OPEN)
    row("TE and Trailer", "GET § HTTP/1.1|Host: a|Connection: TE|TE: trailers, deflate;q=0.5|Trailer: X||",
        "9110 10.1.4", 200, OPEN)

    # --- pipelines ---
    row("two requests at once", "GET § HTTP/1.1|Host: a||GET § HTTP/1.1|Host: a||", "9112 9.3.2", (200, 200), OPEN)
    row("HEAD and GET at once", "HEAD § HTTP/1.1|Host: a||GET § HTTP/1.1|Host: a||", "9112 9.3.2", (200, 200), OPEN)
    row("five at once", "GET § HTTP/1.1|Host: a||" * 5, "9112 9.3.2", (200,) * 5, OPEN)
    row("bodies in a pipeline",
        "POST § HTTP/1.1|Host: a|Content-Length: 2||hiPOST § HTTP/1.1|Host: a|Content-Length: 2||ho", "9112 9.3.2",
        (200, 200), OPEN)
    row("a bad second request does not take the first's answer", "GET § HTTP/1.1|Host: a||GET § HTTP/1.1||",
        "9112 9.3.2", (200, 400), CLOSED)
    row("noise after a request", "GET § HTTP/1.1|Host: a||\x00\x00\x00", "9112 9.3.2", (200, 400), CLOSED)
    row("a request after a bad one is not answered", "GET § HTTP/1.1||GET § HTTP/1.1|Host: a||", "9112 9.3.2", 400,
        CLOSED)
    row("the third says close",
        "GET § HTTP/1.1|Host: a||GET § HTTP/1.1|Host: a||GET § HTTP/1.1|Host: a|Connection: close||", "9112 9.6",
        (200, 200, 200), CLOSED)

    # --- Content-Length ---
    row("a body", "POST § HTTP/1.1|Host: a|Content-Length: 5||hello", "9112 6.2", 200, OPEN)
    row("a body of GET", "GET § HTTP/1.1|Host: a|Content-Length: 5||hello", "9110 9.3.1", 200, OPEN)
    row("a body of HEAD", "HEAD § HTTP/1.1|Host: a|Content-Length: 5||hello", "9110 9.3.2", 200, OPEN)
    row("a POST without a length has no body", "POST § HTTP/1.1|Host: a|Content-Type: text/plain||", "9112 6.3", 200,
        OPEN)
    row("a POST without a length in HTTP/1.0 has no body", "POST § HTTP/1.0|Content-Type: text/plain||", "9112 6.3",
        200, CLOSED)
    row("what follows a POST without a length is a request", "POST § HTTP/1.1|Host: a||GET § HTTP/1.1|Host: a||",
        "9112 6.3", (200, 200), OPEN)
    row("an empty body", "POST § HTTP/1.1|Host: a|Content-Length: 0||", "9112 6.2", 200, OPEN)
    row("a length with leading zeros", "POST § HTTP/1.1|Host: a|Content-Length: 0005||hello", "9110 8.6", 200, OPEN)
    row("a body in HTTP/1.0", "POST § HTTP/1.0|Content-Length: 5||hello", "9112 6.2", 200, CLOSED)
    row("a body that looks like a request", "POST § HTTP/1.1|Host: a|Content-Length: 27||GET /evil HTTP/1.1|Host: x|",
        "9112 6.2", 200, OPEN)
    row("the length of another body", "POST § HTTP/1.1|Host: a|Content-Length: 2||hello||", "9112 6.2", (200, 400),
        CLOSED)
    for name, value, other in (
        ("two lengths in one", "5, 5", None),
        ("two different lengths in one", "5, 6", None),
        ("a sign", "+5", None),
        ("a minus", "-5", None),
        ("a hexadecimal length", "0x5", None),
        ("a fraction", "5.0", None),
        ("an exponent", "5e0", None),
        ("letters", "abc", None),
        ("no value", "", None),
        ("digits and letters", "5a", None),
        ("a space inside", "5 5", None),
        ("an underscore", "1_0", None),
        ("a length in quotes", '"5"', None),
        ("Arabic digits", "\xd9\xa5", None),
        ("more than 64 bits", "18446744073709551621", None),
        ("a thousand digits", "9" * 1000, None),
    ):
        row(f"Content-Length: {name}", f"POST § HTTP/1.1|Host: a|Content-Length: {value}||hello", "9112 6.3", 400,
            CLOSED, other)
    row("two Content-Lengths", "POST § HTTP/1.1|Host: a|Content-Length: 5|Content-Length: 6||hello", "9112 6.3", 400,
        CLOSED)
    row("two equal Content-Lengths", "POST § HTTP/1.1|Host: a|Content-Length: 5|Content-Length: 5||hello", "9112 6.3",
        400, CLOSED)
    row("Content-Length in other letters, twice", "POST § HTTP/1.1|Host: a|content-length: 5|CONTENT-LENGTH: 5||hello",
        "9112 6.3", 400, CLOSED)
    row("a body too large", "POST § HTTP/1.1|Host: a|Content-Length: 65537||", "9110 15.5.14", 413, CLOSED)
    row("a body far too large", "POST § HTTP/1.1|Host: a|Content-Length: 99999999999||", "9110 15.5.14", 413, CLOSED)
    row("a body as large as may be", f"POST § HTTP/1.1|Host: a|Content-Length: 65536||{'x' * 65536}", "9110 15.5.14",
        200, OPEN)

    # --- Transfer-Encoding ---
    chunked = "POST § HTTP/1.1|Host: a|Transfer-Encoding: chunked||"
    row("chunked", chunked + "5|hello|0||", "9112 7.1", 200, OPEN)
    row("chunked, empty", chunked + "0||", "9112 7.1", 200, OPEN)
    row("chunked, several", chunked + "1|h|4|ello|0||", "9112 7.1", 200, OPEN)
    row("chunked in capitals", "POST § HTTP/1.1|Host: a|TRANSFER-ENCODING: CHUNKED||5|hello|0||", "9112 7", 200, OPEN)
    row("sizes in both cases", chunked + "A|0123456789|a|0123456789|0||", "9112 7.1", 200, OPEN)
    row("sizes with leading zeros", chunked + "0005|hello|000||", "9112 7.1", 200, OPEN)
    row("a chunk extension", chunked + "5;a=b|hello|0||", "9112 7.1.1", 200, OPEN)
    row("a chunk extension without a value", chunked + "5;a|hello|0;b||", "9112 7.1.1", 200, OPEN)
    row("a quoted chunk extension", chunked + '5;a="b;c\\""|hello|0||', "9112 7.1.1", 200, OPEN)
    row("white space around an extension", chunked + "5 ; a = b|hello|0||", "9112 7.1.1", 200, OPEN)
    row("a trailer", chunked + "5|hello|0|X: 1||", "9112 7.1.2", 200, OPEN)
    row("several trailers", chunked + "5|hello|0|X: 1|Y: 2||", "9112 7.1.2", 200, OPEN)
    row("a trailer that means nothing there", chunked + "5|hello|0|Content-Length: 3||", "9110 6.5.1", 200, OPEN)
    row("what follows a chunked body", chunked + "5|hello|0||GET § HTTP/1.1|Host: a||", "9112 9.3.2", (200, 200), OPEN)
    row("chunked of GET", "GET § HTTP/1.1|Host: a|Transfer-Encoding: chunked||0||", "9112 6.3", 200, OPEN)
    row("a length and chunked", "POST § HTTP/1.1|Host: a|Content-Length: 5|Transfer-Encoding: chunked||0||", "9112 6.3",
        400, CLOSED)
    row("chunked and a length", "POST § HTTP/1.1|Host: a|Transfer-Encoding: chunked|Content-Length: 5||0||", "9112 6.3",
        400, CLOSED)
    row("a length and gzip", "POST § HTTP/1.1|Host: a|Content-Length: 5|Transfer-Encoding: gzip||hello", "9112 6.3",
        400, CLOSED, (501, CLOSED), "nginx looks at the coding before the length")
    row("chunked in HTTP/1.0", "POST § HTTP/1.0|Host: a|Transfer-Encoding: chunked||0||", "9112 6.1", 400, CLOSED)
    row("two lines of chunked", "POST § HTTP/1.1|Host: a|Transfer-Encoding: chunked|Transfer-Encoding: chunked||0||",
        "9112 6.3", 400, CLOSED)
    row("chunked, then another line",
        "POST § HTTP/1.1|Host: a|Transfer-Encoding: chunked|Transfer-Encoding: identity||0||", "9112 6.3", 400, CLOSED)
    coded = "nginx answers 501 to every coding but chunked"
    for value, status in (
        ("gzip, chunked", 501), ("deflate, chunked", 501), ("identity, chunked", 501), ("x, chunked", 501),
    ):  # fmt: skip
        row(f"coding {value}", f"POST § HTTP/1.1|Host: a|Transfer-Encoding: {value}||0||", "9112 6.1", status, CLOSED)
    for value in (
        "gzip",
        "identity",
        "chunked, gzip",
        "chunked, chunked",
        "xchunked",
        "chunkedx",
        "chunked;q=1",
        '"chunked"',
        "chu nked",
        "",
    ):
        row(f"coding {value!r}", f"POST § HTTP/1.1|Host: a|Transfer-Encoding: {value}||0||", "9112 6.3", 400, CLOSED,
            (501, CLOSED), coded)
    row("an empty member before chunked", "POST § HTTP/1.1|Host: a|Transfer-Encoding: , chunked||0||", "9110 5.6.1",
        501, CLOSED)
    row("a control character before chunked", "POST § HTTP/1.1|Host: a|Transfer-Encoding: \x0bchunked||0||", "9110 5.5",
        400, CLOSED, (501, CLOSED), coded)
    row("white space before the colon of chunked", "POST § HTTP/1.1|Host: a|Transfer-Encoding : chunked||0||",
        "9112 5.1", 400, CLOSED)
    row("chunked, folded", "POST § HTTP/1.1|Host: a|Transfer-Encoding:| chunked||0||", "9112 5.2", 400, CLOSED)

    # --- chunks ---
    lf = "nginx takes LF for CRLF in chunks too; a reader that doesn't sees another body"
    skips = "nginx skips what stands after a size; a reader that doesn't sees another body"
    trailers = "nginx skips trailers unread; a reader that keeps them sees other headers"
    for name, body, why in (
        ("a size of letters", "xyz|hello|0||", ""),
        ("an empty size", "|hello|0||", ""),
        ("a sign", "+5|hello|0||", ""),
        ("a minus", "-5|hello|0||", ""),
        ("a hexadecimal prefix", "0x5|hello|0||", ""),
        ("a quote", '"5"|hello|0||', ""),
        ("too many digits", "0" * 17 + "5|hello|0||", "nginx counts leading zeros for nothing; nobody sends so many"),
        ("an overflow", "10000000000000005|hello|0||", ""),
        ("white space before it", " 5|hello|0||", ""),
        ("an underscore", "0_5|hello|0||", ""),
        ("a comma", "5,5|hello|0||", ""),
        ("LF after a size", "5\nhello|0||", lf),
        ("CR after a size", "5\rhello|0||", ""),
        ("LF after a chunk", "5|hello\n0||", lf),
        ("a chunk too long", "5|hello!|0||", ""),
        ("a chunk too short", "5|hell|0||", lf),
        ("NUL in an extension", "5;a\x00|hello|0||", skips),
        ("LF in an extension", "5;a\nb|hello|0||", ""),
        ("CR in an extension", "5;a\rb|hello|0||", ""),
        ("an extension without a name", "5;|hello|0||", skips),
        ("an extension that is none", "5 a|hello|0||", skips),
        ("an open quote", '5;a="b|hello|0||', skips),
        ("a trailer that is none", "5|hello|0|nonsense||", trailers),
        ("a folded trailer", "5|hello|0|X: 1| 2||", trailers),
        ("LF after a trailer", "5|hello|0|X: 1\n|", lf),
        ("LF after the last chunk", "5|hello|0\n|", lf),
        ("LF at the very end", "5|hello|0|\n", lf),
    ):
        row(f"chunks: {name}", chunked + body, "9112 7.1", 400, CLOSED, (200, OPEN) if why else None, why)
    row("chunks too large", chunked + "10001|", "9110 15.5.14", 413, CLOSED)
    row("a chunk far too large", chunked + "ffffffffffffffff|", "9110 15.5.14", 413, CLOSED,
        (400, CLOSED), "nginx calls a size that overflows malformed; what it says is too much")
    row("an extension too long", chunked + f"5;{'a' * 9000}|hello|0||", "9112 7.1.1", 431, CLOSED,
        (200, OPEN), "nginx reads framing without end, which costs the peer less than the server")
    row("extensions too large together", chunked + f"1;{'a' * 500}|x|" * 40 + "0||", "9112 7.1.1", 431, CLOSED,
        (200, OPEN), "nginx reads framing without end, which costs the peer less than the server")
    row("trailers too large", chunked + "0|" + f"X: {'a' * 1000}|" * 17 + "|", "9112 7.1.2", 431, CLOSED,
        (200, OPEN), "nginx reads framing without end, which costs the peer less than the server")

    # --- Expect ---
    expects = "POST § HTTP/1.1|Host: a|Expect: 100-continue|Content-Length: 2||"
    row("100-continue that waits for its body", expects + "¶hi", "9110 10.1.1", (100, 200), OPEN)
    row("100-continue with its body", expects + "hi", "9110 10.1.1", 200, OPEN, ((100, 200), OPEN),
        "nginx prompts for what is there already; the section allows to leave it out")
    row("100-continue in capitals", expects.replace("100-continue", "100-CONTINUE") + "¶hi", "9110 10.1.1", (100, 200),
        OPEN)
    row("100-continue before chunks", chunked.replace("||", "|Expect: 100-continue||") + "¶2|hi|0||", "9110 10.1.1",
        (100, 200), OPEN)
    row("100-continue before an empty body", expects.replace("2||", "0||"), "9110 10.1.1", 200, OPEN,
        ((100, 200), OPEN), "nginx prompts for nothing; there is no body to wait with")
    row("100-continue without a body", "GET § HTTP/1.1|Host: a|Expect: 100-continue||", "9110 10.1.1", 200, OPEN,
        ((100, 200), OPEN), "nginx prompts for nothing; there is no body to wait with")
    row("100-continue in a pipeline", "GET § HTTP/1.1|Host: a||" + expects + "¶hi", "9110 10.1.1", (200, 100, 200),
        OPEN)
    row("100-continue of HTTP/1.0", "POST § HTTP/1.0|Host: a|Expect: 100-continue|Content-Length: 2||¶hi",
        "9110 10.1.1", 200, CLOSED)
    row("100-continue of HTTP/1.0 that keeps the connection",
        "POST § HTTP/1.0|Host: a|Connection: keep-alive|Expect: 100-continue|Content-Length: 2||¶hi", "9110 10.1.1",
        200, OPEN)
    row("100-continue before a body too large", "POST § HTTP/1.1|Host: a|Expect: 100-continue|Content-Length: 65537||",
        "9110 10.1.1", 413, CLOSED)
    row("another expectation", "GET § HTTP/1.1|Host: a|Expect: 200-ok||", "9110 10.1.1", 417, CLOSED, (200, OPEN),
        "nginx ignores expectations that it does not know; the section allows both")
    # fmt: on
    return rows


CASES = _rows()
