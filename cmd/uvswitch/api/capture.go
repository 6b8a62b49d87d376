package api

// A Verdict is a line of `monitor`: what became of one frame.
type Verdict struct {
	Time     string `json:"time"`    // RFC 3339, with nanoseconds
	Verdict  string `json:"verdict"` // forwarded, flooded, consumed (by the gateway) or dropped
	Reason   string `json:"reason,omitempty"`
	In       string `json:"in"`            // the port it came from; gateway
	Out      string `json:"out,omitempty"` // the port it went to, or that did not take it
	Copies   int    `json:"copies,omitempty"`
	Packet   string `json:"packet"`            // in words, as it came
	Becomes  string `json:"becomes,omitempty"` // after translation
	Flow     uint32 `json:"flow,omitempty"`
	Length   int    `json:"length"` // bytes of the frame
	Lost     uint64 `json:"lost,omitempty"`
	Src      string `json:"src,omitempty"`
	Dst      string `json:"dst,omitempty"`
	Protocol string `json:"protocol,omitempty"`
	Sport    int    `json:"sport,omitempty"`
	Dport    int    `json:"dport,omitempty"`
}
