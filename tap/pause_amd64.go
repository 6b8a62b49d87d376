package tap

// pause tells the CPU that the thread waits in a loop: the other thread of the same core gets more of it.
func pause()
