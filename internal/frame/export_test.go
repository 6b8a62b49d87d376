package frame

// SetGROSeed makes the slots of GRO's table the same in each run, and returns what sets the old seed again.
func SetGROSeed(seed uint64) (restore func()) {
	old := groSeed
	groSeed = seed
	return func() { groSeed = old }
}
