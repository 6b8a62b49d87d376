package web

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"net"
	"net/http"
	"strings"
)

// Every account of the host can connect to the page's TCP port. A Token, which is new at each start, tells whom the page shows what
// containers send and to whom: flows, packets, traces. The page takes it from its address and sends it as a bearer token: a cookie would
// go to every port of the host.
type Token string

// NewToken makes a token of 128 random bits.
func NewToken() Token {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	return Token(base64.RawURLEncoding.EncodeToString(b[:]))
}

// IsIn reports whether a request has the token.
func (t Token) IsIn(r *http.Request) bool {
	given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return ok && subtle.ConstantTimeCompare([]byte(given), []byte(t)) == 1
}

// URL returns the address of the page at a listener's address, with the token.
func (t Token) URL(a net.Addr) string {
	if a.Network() == "unix" { // who opens the socket needs none
		return "unix:" + a.String()
	}
	return "http://" + a.String() + "/#token=" + string(t)
}
