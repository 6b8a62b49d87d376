package api

// A Verdict is a line of `monitor`: the verdict on one frame.
type Verdict struct {
	Time     string `json:"time"`    // RFC 3339, with nanoseconds
	Verdict  string `json:"verdict"` // forwarded, flooded, consumed (by the gateway) or dropped
	Reason   string `json:"reason,omitempty"`
	Why      string `json:"why,omitempty"`    // for policy_denied and policy_dropped: which policy and rule, by the rules of now
	Remedy   string `json:"remedy,omitempty"` // of a dropped packet: what to do
	In       string `json:"in"`               // the port that the frame came from, or "gateway"
	Out      string `json:"out,omitempty"`    // the port that the frame went to, or that did not accept it
	Copies   int    `json:"copies,omitempty"`
	Packet   string `json:"packet"`            // summary of the packet as it came
	Becomes  string `json:"becomes,omitempty"` // summary of the packet after translation
	Flow     uint32 `json:"flow,omitempty"`
	Length   int    `json:"length"` // length of the frame in bytes
	Lost     uint64 `json:"lost,omitempty"`
	Src      string `json:"src,omitempty"`
	Dst      string `json:"dst,omitempty"`
	Protocol string `json:"protocol,omitempty"`
	Sport    int    `json:"sport,omitempty"`
	Dport    int    `json:"dport,omitempty"`
	Trace    string `json:"trace,omitempty"` // of a dropped packet: its description for `uvswitch trace`, if its kind has one
	Bytes    string `json:"bytes,omitempty"` // the first bytes of the frame in hexadecimal, if they are asked for
}

// A LayersRequest is the body of POST /v1/layers.
type LayersRequest struct {
	Hex string `json:"hex"` // a frame, from its destination MAC on
}

// A Layer is one header of a frame.
type Layer struct {
	Name   string  `json:"name"`
	Length int     `json:"length"` // in bytes
	Fields []Field `json:"fields"`
}

// A Field is one value of a header, as text.
type Field struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}
