// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* Capture: one object, because its programs share their maps. Each part is a file of its own. */
#include "kernel.h"
#include "events.h"
#include "maps.h"
#include "streams.h"

#include "processes.c"
#include "tls.c"
#include "sockets.c"

char LICENSE[] SEC("license") = "GPL"; /* bpf_probe_read_user and others are for GPL programs only */
