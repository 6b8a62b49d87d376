// Package uring is a small io_uring: one submission queue, one completion queue, and a ring of provided buffers, as
// one thread uses them to read and write many descriptors. It is what a packet loop needs and no more: it knows
// nothing of frames or ports.
//
// Rings are set up with SINGLE_ISSUER and DEFER_TASKRUN: completions are made only inside Enter, by the thread that
// called Enable. So between two calls of Enter nothing moves, and a multishot read cannot touch a buffer behind its
// user's back.
//
// Sources: io_uring_setup(2), io_uring_enter(2), io_uring_register(2); linux include/uapi/linux/io_uring.h,
// io_uring/rw.c, io_uring/poll.c.
package uring
