/* limit connects two TAP devices through io_uring, with a thread and a ring for each direction. It does not inspect frames:
 * no tables, no counters, no checks. So it shows how fast a user-space switch can be on this kernel.
 *
 *	limit TAP TAP
 *
 * It creates both devices, with virtio-net header and all offloads, in its own network namespace, prints "ready",
 * and forwards until it is killed. Move the devices to other namespaces afterwards.
 *
 * Sources: io_uring_setup(2), io_uring_enter(2), io_uring_register(2), linux/io_uring.h; drivers/net/tun.c.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

enum { ENTRIES = 128, BUFFERS = 64, BUFFER_LEN = 68 << 10, READ = 1 << 16 };

static void die(const char *what)
{
	fprintf(stderr, "limit: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int open_tap(const char *name)
{
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	struct ifreq r = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	if (fd < 0)
		die("/dev/net/tun");
	snprintf(r.ifr_name, IFNAMSIZ, "%s", name);
	if (ioctl(fd, TUNSETIFF, &r) < 0)
		die(name);
	unsigned long tso = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
	if (ioctl(fd, TUNSETOFFLOAD, tso | TUN_F_USO4 | TUN_F_USO6) < 0 && ioctl(fd, TUNSETOFFLOAD, tso) < 0)
		die("TUNSETOFFLOAD");
	return fd;
}

struct direction {
	int from, to;
};

struct ring {
	int fd;
	_Atomic unsigned *sq_tail, *cq_head, *cq_tail;
	unsigned sq_mask, cq_mask, queued;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes;
	struct io_uring_buf_ring *bufs;
	char *memory;
	unsigned short buf_tail;
};

static void give_buffer(struct ring *r, unsigned id)
{
	struct io_uring_buf *b = &r->bufs->bufs[r->buf_tail++ & (BUFFERS - 1)];
	b->addr = (unsigned long)(r->memory + (size_t)id * BUFFER_LEN);
	b->len = BUFFER_LEN;
	b->bid = id;
	atomic_store_explicit((_Atomic unsigned short *)&r->bufs->tail, r->buf_tail, memory_order_release);
}

static struct io_uring_sqe *next_sqe(struct ring *r)
{
	unsigned tail = atomic_load_explicit(r->sq_tail, memory_order_relaxed);
	struct io_uring_sqe *s = &r->sqes[tail & r->sq_mask];
	memset(s, 0, sizeof *s);
	s->flags = IOSQE_FIXED_FILE;
	atomic_store_explicit(r->sq_tail, tail + 1, memory_order_release);
	r->queued++;
	return s;
}

static void arm_read(struct ring *r)
{
	struct io_uring_sqe *s = next_sqe(r);
	s->opcode = 49; /* IORING_OP_READ_MULTISHOT, Linux 6.7 */
	s->flags |= IOSQE_BUFFER_SELECT;
	s->user_data = READ;
}

static void setup(struct ring *r, struct direction *d)
{
	struct io_uring_params p = {
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE,
		.cq_entries = 4 * ENTRIES,
	};
	r->fd = syscall(SYS_io_uring_setup, ENTRIES, &p);
	if (r->fd < 0)
		die("io_uring_setup");
	size_t len = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
	char *m = mmap(0, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd, IORING_OFF_SQ_RING);
	r->sqes = mmap(0, p.sq_entries * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd, IORING_OFF_SQES);
	r->memory = mmap(0, (size_t)BUFFERS * BUFFER_LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	r->bufs = mmap(0, BUFFERS * sizeof(struct io_uring_buf), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (m == MAP_FAILED || r->sqes == MAP_FAILED || r->memory == MAP_FAILED || r->bufs == MAP_FAILED)
		die("mmap");
	r->sq_tail = (void *)(m + p.sq_off.tail);
	r->sq_mask = *(unsigned *)(m + p.sq_off.ring_mask);
	r->cq_head = (void *)(m + p.cq_off.head);
	r->cq_tail = (void *)(m + p.cq_off.tail);
	r->cq_mask = *(unsigned *)(m + p.cq_off.ring_mask);
	r->cqes = (void *)(m + p.cq_off.cqes);
	unsigned *array = (void *)(m + p.sq_off.array);
	for (unsigned i = 0; i < p.sq_entries; i++)
		array[i] = i;
	struct io_uring_buf_reg reg = {.ring_addr = (unsigned long)r->bufs, .ring_entries = BUFFERS};
	int files[2] = {d->from, d->to};
	if (syscall(SYS_io_uring_register, r->fd, IORING_REGISTER_PBUF_RING, &reg, 1) < 0 ||
	    syscall(SYS_io_uring_register, r->fd, IORING_REGISTER_FILES, files, 2) < 0)
		die("io_uring_register");
	for (unsigned i = 0; i < BUFFERS; i++)
		give_buffer(r, i);
}

static void *forward(void *arg)
{
	struct ring r = {0};
	setup(&r, arg);
	arm_read(&r);
	for (;;) {
		int n = syscall(SYS_io_uring_enter, r.fd, r.queued, 1, IORING_ENTER_GETEVENTS, 0, 0);
		if (n < 0 && errno != EINTR)
			die("io_uring_enter");
		if (n > 0)
			r.queued -= n;
		unsigned head = atomic_load_explicit(r.cq_head, memory_order_relaxed);
		unsigned tail = atomic_load_explicit(r.cq_tail, memory_order_acquire);
		for (; head != tail; head++) {
			struct io_uring_cqe *c = &r.cqes[head & r.cq_mask];
			if (c->user_data != READ) { /* a write is done */
				give_buffer(&r, c->user_data);
				continue;
			}
			if (c->flags & IORING_CQE_F_BUFFER) {
				unsigned id = c->flags >> IORING_CQE_BUFFER_SHIFT;
				struct io_uring_sqe *s = next_sqe(&r);
				s->opcode = IORING_OP_WRITE;
				s->fd = 1;
				s->addr = (unsigned long)(r.memory + (size_t)id * BUFFER_LEN);
				s->len = c->res;
				s->user_data = id;
			}
			if (!(c->flags & IORING_CQE_F_MORE))
				arm_read(&r);
		}
		atomic_store_explicit(r.cq_head, head, memory_order_release);
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "usage: limit TAP TAP\n");
		return 2;
	}
	int a = open_tap(argv[1]), b = open_tap(argv[2]);
	struct direction there = {a, b}, back = {b, a};
	pthread_t t;
	if (pthread_create(&t, 0, forward, &there))
		die("pthread_create");
	puts("ready");
	fflush(stdout);
	forward(&back);
	return 0;
}
