/* The plain types of the interfaces between the probes and the agent. */
#ifndef UNDERSTUDY_TYPES_H
#define UNDERSTUDY_TYPES_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#endif
