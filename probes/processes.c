/* Processes: what they execute and map, so that it is probed, and when they end. */

/* Tells of a file that was mapped executable and is not yet examined. The process goes on: where a file must be probed before it
 * is used, the agent holds its opening (agent/opens.py). */
static __noinline int tell_mapped(struct file *file, int fd, u32 capture)
{
	if (!file)
		return 0;
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	struct file_key key = {
		.inode = BPF_CORE_READ(inode, i_ino),
		.size = BPF_CORE_READ(inode, i_size),
		.device = BPF_CORE_READ(inode, i_sb, s_dev),
	};
	if (bpf_map_lookup_elem(&known_files, &key))
		return 0;
	struct event_mapped *event = bpf_ringbuf_reserve(&mappings, sizeof(*event), 0);
	if (!event) {
		count(COUNT_EVENTS_LOST, 1);
		return 0;
	}
	struct process process;
	current_process(&process, capture);
	fill_head(&event->head, EVENT_MAPPED, 0, &process);
	event->file = key;
	event->fd = fd;
	event->padding = 0;
	bpf_ringbuf_submit(event, BPF_RB_FORCE_WAKEUP);
	return 0;
}

static __always_inline void tell_process(u32 kind, u32 capture)
{
	struct event_process *event = SMALL_EVENT(event);
	if (!event)
		return;
	struct process process;
	current_process(&process, capture);
	fill_head(&event->head, kind, 0, &process);
	bpf_get_current_comm(event->command, sizeof(event->command));
	submit_small(event);
}

SEC("raw_tp/sched_process_exec")
int process_exec(struct bpf_raw_tracepoint_args *ctx)
{
	u32 capture = capture_of_current();
	if (!capture)
		return 0;
	tell_process(EVENT_EXECUTED, capture);
	struct linux_binprm *program = (void *)ctx->args[2];
	return tell_mapped(BPF_CORE_READ(program, file), -1, capture);
}

SEC("raw_tp/sched_process_fork")
int process_fork(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *parent = (void *)ctx->args[0];
	struct task_struct *child = (void *)ctx->args[1];
	u32 parent_tgid = BPF_CORE_READ(parent, tgid);
	u32 child_tgid = BPF_CORE_READ(child, tgid);
	u32 *capture = bpf_map_lookup_elem(&target_processes, &parent_tgid);
	if (!capture || child_tgid == parent_tgid)
		return 0;
	u32 value = *capture;
	if (bpf_map_update_elem(&target_processes, &child_tgid, &value, BPF_ANY))
		count(COUNT_PROCESSES_UNTRACKED, 1);
	return 0;
}

SEC("raw_tp/sched_process_exit")
int process_exit(struct bpf_raw_tracepoint_args *ctx)
{
	u64 thread = bpf_get_current_pid_tgid();
	bpf_map_delete_elem(&frames, &thread);
	bpf_map_delete_elem(&calls, &thread);
	struct task_struct *task = (void *)ctx->args[0];
	if (BPF_CORE_READ(task, signal, live.counter))
		return 0; /* not the last thread */
	u32 capture = capture_of_current();
	if (capture)
		tell_process(EVENT_EXITED, capture);
	u32 tgid = thread >> 32;
	bpf_map_delete_elem(&target_processes, &tgid);
	return 0;
}
