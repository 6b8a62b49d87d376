// Package uring is a small io_uring library: one submission queue, one completion queue, and a ring of provided buffers,
// with which one thread reads and writes many descriptors. It has only what a packet loop needs, and knows nothing of
// frames or ports.
//
// Rings are set up with SINGLE_ISSUER and DEFER_TASKRUN: completions are produced only inside Enter, on the thread that
// called Enable. So nothing changes between two calls of Enter; a multishot read fills no buffer in that time.
//
// Sources: io_uring_setup(2), io_uring_enter(2), io_uring_register(2); linux include/uapi/linux/io_uring.h,
// io_uring/rw.c, io_uring/poll.c.
package uring
