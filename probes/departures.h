/* The interface between the hooks that watch who leaves a cgroup, and the agent. agent/takeover/events.py mirrors it; a test compares
 * both, field by field. */
#ifndef UNDERSTUDY_DEPARTURES_H
#define UNDERSTUDY_DEPARTURES_H

#include "types.h"

/* Where a process of the workload is. */
enum whereabouts {
	WHERE_INSIDE = 1, /* in the cgroup, or below */
	WHERE_DEPARTED,
};

struct departures_settings {
	u64 cgroup; /* its id */
};

struct departure_event {
	u64 started; /* of the process, ns since boot: its number may be another's by now */
	u32 tgid;
	u32 padding;
	char command[16];
};

#endif
