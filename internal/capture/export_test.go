package capture

import "time"

// Spend takes time from the budget of every worker.
func (h *Hub) Spend(d time.Duration) {
	for _, o := range h.workers {
		o.budget.isSpent(time.Now())
		o.budget.left -= d
	}
}
