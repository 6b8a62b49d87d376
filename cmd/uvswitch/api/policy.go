package api

// A PolicyAdd makes a policy: a named list of rules about which flows may begin at a port (egress), and with it (ingress).
type PolicyAdd struct {
	Name string `json:"name"` // of the policy
	// At least one rule. Rules are texts: DIRECTION ACTION [PEER] [PROTOCOL[/PORTS]] [log], such as "egress allow name:api.example.com tcp/443". Their order does not
	// count.
	Rules []string `json:"rules,omitempty"`
	DNS   string   `json:"dns,omitempty"` // for which names ports may ask: rules (when empty: with rules for names, for those; else any), any, named (those of rules only)
}

// A PolicyRuleAdd adds a rule to a policy.
type PolicyRuleAdd struct {
	Rule string `json:"rule"`
}

// A PolicyAttach says to what a policy is attached: one port, or all ports of a network.
type PolicyAttach struct {
	Port    string `json:"port,omitempty"`
	Network string `json:"network,omitempty"`
	// Seconds, of policy learn only: the port has the policy for so long from now on, without an attachment (`policy learn`).
	Seconds int `json:"seconds,omitempty"`
}

// A Policy is a row of `policy ls`.
type Policy struct {
	Name     string       `json:"name"`
	Builtin  bool         `json:"builtin"` // it is part of the command, and does not change
	DNS      string       `json:"dns"`     // rules, any, named
	Rules    []PolicyRule `json:"rules"`
	Ports    []string     `json:"ports"`    // to which it is attached
	Networks []string     `json:"networks"` // likewise
	// Unallowed are the packets of each port that has the policy, also by its network, that no rule of any of its policies allows.
	Unallowed map[string]uint64 `json:"unallowed"`
}

// A PolicyRule is one rule of a policy, with what it has done. Flows are those that it has let in, Refused the packets that it has refused.
type PolicyRule struct {
	Number  int    `json:"number"` // 1 is the first
	Rule    string `json:"rule"`
	Missing bool   `json:"missing,omitempty"` // the port or the network of the rule does not exist now
	Flows   uint64 `json:"flows"`
	Refused uint64 `json:"refused"`
}

// A PolicyRefusal is a question for a name that a policy has refused.
type PolicyRefusal struct {
	Port  string `json:"port"`
	Name  string `json:"name"`
	Count uint64 `json:"count"`
	Age   string `json:"age"` // of the last one
}

// A LearnedName is a name for which a port has asked, with an address of the answer.
type LearnedName struct {
	Name    string `json:"name"`
	Address string `json:"address"`
}

// A PolicyTest asks whether a port may begin a flow.
type PolicyTest struct {
	Port     string `json:"port"`
	To       string `json:"to"`               // an address, the name of a port, or a name of DNS
	Number   int    `json:"number,omitempty"` // of the destination's port
	Protocol string `json:"protocol"`
}

// A PolicyTestResult says whether the flow may begin, and why.
type PolicyTestResult struct {
	Allowed bool   `json:"allowed"`
	Why     string `json:"why"`
	Remedy  string `json:"remedy,omitempty"`
}
