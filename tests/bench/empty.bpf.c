// SPDX-License-Identifier: GPL-2.0
/* Programs that do nothing: the price of a probe as such. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("uprobe")
int empty_enter(void *ctx)
{
	return 0;
}

SEC("uretprobe")
int empty_return(void *ctx)
{
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
