/* The kernel's structures, as far as the probes read them. CO-RE finds the fields' places on the running kernel, so only
 * names and types matter here, not order or completeness. Fields are as in Linux 5.15 to 6.18. */
#ifndef UNDERSTUDY_KERNEL_H
#define UNDERSTUDY_KERNEL_H

#include <linux/bpf.h>
#define __VMLINUX_H__ /* bpf_tracing.h: the kernel's names of pt_regs fields */
#include "events.h"

typedef short s16;
typedef int s32;
typedef long long s64;
typedef _Bool bool;
#define true 1
#define false 0

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};
struct thread_info {
	u32 status;
};
#elif defined(__TARGET_ARCH_arm64)
struct user_pt_regs {
	u64 regs[31];
	u64 sp;
	u64 pc;
	u64 pstate;
};
struct pt_regs {
	u64 regs[31];
	u64 sp;
	u64 pc;
	u64 pstate;
	u64 orig_x0;
	s32 syscallno;
};
struct thread_info {
	unsigned long flags;
};
#else
#error "set __TARGET_ARCH_x86 or __TARGET_ARCH_arm64"
#endif

struct super_block {
	u32 s_dev;
};
struct inode {
	u16 i_mode;
	unsigned long i_ino;
	s64 i_size;
	struct super_block *i_sb;
};
struct file {
	struct inode *f_inode;
	void *private_data;
};
struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};
struct files_struct {
	struct fdtable *fdt;
};
struct in6_addr {
	u8 s6_addr[16];
};
struct sock_common {
	u32 skc_daddr;
	u32 skc_rcv_saddr;
	u16 skc_dport; /* network order */
	u16 skc_num;   /* host order */
	u16 skc_family;
	u8 skc_state;
	unsigned long skc_flags;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
};
struct socket;
struct sock {
	struct sock_common __sk_common;
	u16 sk_type;
	u16 sk_protocol;
	void *sk_user_data;
	struct socket *sk_socket;
};
struct tcp_sock {
	u32 rcv_nxt;	/* what has arrived; the peer's FIN counts as one byte */
	u32 copied_seq; /* what has been read of it */
	u32 write_seq;	/* what has been written; our FIN counts as one byte */
};
struct socket {
	struct sock *sk;
};
struct atomic {
	int counter;
};
struct signal_struct {
	struct atomic live;
};
struct task_struct {
	struct thread_info thread_info;
	struct files_struct *files;
	struct task_struct *group_leader;
	struct signal_struct *signal;
	s32 pid;
	s32 tgid;
	u64 start_boottime;
	u64 self_exec_id;
};
struct linux_binprm {
	struct file *file;
};

#pragma clang attribute pop

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define SOCK_DONE 1 /* enum sock_flags: the number of a bit */
#define S_IFMT 0170000
#define S_IFSOCK 0140000
#define IPPROTO_TCP 6
#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
#define TCP_CLOSE 7
#define TCP_CLOSE_WAIT 8
#define TCP_LAST_ACK 9
#define TCP_CLOSING 11
#define MSG_OOB 1
#define MSG_PEEK 2
#define MSG_TRUNC 0x20
#define MSG_ERRQUEUE 0x2000
#define MSG_SOCK_DEVMEM 0x2000000 /* Linux 6.12: into a device's memory */
#define UIO_MAXIOV 1024
#define PROT_EXEC 4
#define EINPROGRESS 115

/* How far the stack pointer moves when a function returns: x86 pops the return address. */
#if defined(__TARGET_ARCH_x86)
#define RETURN_POPS 8
#define TS_COMPAT 2
#define SYSCALL_ARGUMENT_1(r) BPF_CORE_READ(r, di)
#define SYSCALL_ARGUMENT_2(r) BPF_CORE_READ(r, si)
#define SYSCALL_ARGUMENT_3(r) BPF_CORE_READ(r, dx)
#define SYSCALL_ARGUMENT_4(r) BPF_CORE_READ(r, r10)
#define SYSCALL_ARGUMENT_5(r) BPF_CORE_READ(r, r8)
#define SYSCALL_NUMBER(r) BPF_CORE_READ(r, orig_ax)
enum syscall {
	SYS_read = 0, SYS_write = 1, SYS_mmap = 9, SYS_readv = 19, SYS_writev = 20, SYS_sendfile = 40, SYS_connect = 42,
	SYS_accept = 43, SYS_sendto = 44, SYS_recvfrom = 45, SYS_sendmsg = 46, SYS_recvmsg = 47, SYS_splice = 275,
	SYS_accept4 = 288, SYS_recvmmsg = 299, SYS_sendmmsg = 307, SYS_preadv2 = 327, SYS_pwritev2 = 328,
};
#else
#define RETURN_POPS 0
#define SYSCALL_ARGUMENT_1(r) BPF_CORE_READ(r, orig_x0)
#define SYSCALL_ARGUMENT_2(r) BPF_CORE_READ(r, regs[1])
#define SYSCALL_ARGUMENT_3(r) BPF_CORE_READ(r, regs[2])
#define SYSCALL_ARGUMENT_4(r) BPF_CORE_READ(r, regs[3])
#define SYSCALL_ARGUMENT_5(r) BPF_CORE_READ(r, regs[4])
#define SYSCALL_NUMBER(r) BPF_CORE_READ(r, syscallno)
enum syscall {
	SYS_read = 63, SYS_write = 64, SYS_readv = 65, SYS_writev = 66, SYS_sendfile = 71, SYS_splice = 76, SYS_accept = 202,
	SYS_connect = 203, SYS_sendto = 206, SYS_recvfrom = 207, SYS_sendmsg = 211, SYS_recvmsg = 212, SYS_mmap = 222,
	SYS_accept4 = 242, SYS_recvmmsg = 243, SYS_sendmmsg = 269, SYS_preadv2 = 286, SYS_pwritev2 = 287,
};
#endif

#endif
