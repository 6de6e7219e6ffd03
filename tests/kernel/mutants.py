"""Mutants of the probes and hooks: each breaks one promised rule in a copy of the tree, and a test must turn red.

python -m tests.kernel.mutants [NAME...]        (make mutants)
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECONDS = 300

SOCKETS, TLS, EARLY, BYSTANDERS, UNSEEN, LARGE, OVERFLOW, FULL, TAKEOVER, NETWORK, CALLERS, DEPARTURES = (
    "tests/kernel/test_sockets.py",
    "tests/kernel/test_tls.py",
    "tests/kernel/test_tls_early.py",
    "tests/kernel/test_bystanders.py",
    "tests/kernel/test_tls_unseen.py",
    "tests/kernel/test_large.py",
    "tests/kernel/test_large.py::test_a_call_of_more_than_the_ring_holds_is_counted",
    "tests/kernel/test_large.py::test_a_full_ring_has_room_for_how_streams_begin_and_end",
    "tests/kernel/test_takeover.py",
    "tests/kernel/test_takeover_network.py",
    "tests/kernel/test_takeover_callers.py",
    "tests/kernel/test_takeover_departures.py",
)


@dataclass(frozen=True, slots=True)
class Mutant:
    """The rule that is broken; the file, and what becomes of its one occurrence; the tests of which one must fail."""

    rule: str
    file: str
    old: str
    new: str
    tests: str


MUTANTS = (
    Mutant(
        "SSL_clear cuts without data, too",
        "tls.c",
        "\tbegin_tls(&key, capture, stream ?",
        "\tif (!stream || stream->tally[0].seen || stream->tally[1].seen) begin_tls(&key, capture, stream ?",
        TLS,
    ),
    Mutant("SSL_clear keeps the references", "tls.c", "stream ? stream->references : 1", "stream ? 1 : 1", TLS),
    Mutant("the last SSL_free ends", "tls.c", "__sync_fetch_and_add(&stream->references, -1) <= 1", "false", TLS),
    Mutant("an earlier SSL_free does not", "tls.c", "__sync_fetch_and_add(&stream->references, 1)", "(void)stream", TLS),
    Mutant("an error carries nothing", "tls.c", "return (s32)result > 0 ? (u32)result : 0;", "return (u32)result;", TLS),
    Mutant(
        "only an end of the peer is told", "tls.c", "if (error == SSL_ERROR_ZERO_RETURN || hung_up)", "if (hung_up || error)", TLS
    ),
    Mutant("close_notify is told", "tls.c", "if (error == SSL_ERROR_ZERO_RETURN || hung_up)", "if (hung_up)", TLS),
    Mutant(
        "a FIN without it is told",
        "tls.c",
        "if (error == SSL_ERROR_ZERO_RETURN || hung_up)",
        "if (error == SSL_ERROR_ZERO_RETURN || (hung_up && error == 99))",
        TLS,
    ),
    Mutant("an error is no end", "tls.c", "stream->socket.inode && carrier->read_ended;", "stream->socket.inode;", TLS),
    Mutant("a call that is built on others carries nothing more", "tls.c", "\t\t\touter->carried += length;", "\t\t\t;", TLS),
    Mutant(
        "a call that was left hides nothing",
        "tls.c",
        "if (same_bytes && (same_ssl ? !itself : !is_bound(&outer->key)))",
        "if (same_ssl || (same_bytes && !itself && !is_bound(&outer->key)))",
        TLS,
    ),
    Mutant("a shim's call is not left", "tls.c", " && outer->attachment == inner->attachment;", ";", TLS),
    Mutant(
        "what is called another SSL is the same bytes",
        "tls.c",
        "!itself : !is_bound(&outer->key)",
        "!itself : is_bound(&outer->key)",
        TLS,
    ),
    Mutant("a call that was left breaks its stream", "tls.c", ">= 0)\n\t\tbreak_tls(&frame->key);\n", ">= 0)\n\t\t;\n", TLS),
    Mutant("who is not recorded is left alone", "tls.c", "SPARE_RETURN = 1", "SPARE_RETURN = 0", BYSTANDERS),
    Mutant("what ends unrecorded breaks its stream", "tls.c", "\t\tbreak_tls(&frame->key); /* it", "\t\t; /* it", BYSTANDERS),
    Mutant(
        "a call that ends by a jump is not left",
        "tls.c",
        "(same_bytes && top->call == TLS_WRITE_EX &&",
        "(false && same_bytes &&",
        TLS,
    ),
    Mutant("early data may be refused", "tls.c", "!frame->early && before)", "false)", EARLY),
    Mutant(
        "early data whose flush is tried again is carried once", "tls.c", "\t\tstream->early = EARLY_UNFLUSHED;", "\t\t;", EARLY
    ),
    Mutant(
        "early data that was accepted breaks nothing",
        "tls.c",
        "\t\tstream->early = EARLY_NONE;\n\treturn 0;\n}\n\n/* Emits",
        "\t\t;\n\treturn 0;\n}\n\n/* Emits",
        EARLY,
    ),
    Mutant("a server's early data is what it accepted", "tls.c", "\t\tstream->early = EARLY_READ;", "\t\t;", EARLY),
    Mutant("what passes unseen breaks its stream", "tls.c", "\t\tif (has_hole(stream))\n\t\t\tbreak_tls(key);", "\t\t;", UNSEEN),
    Mutant("a stream that may have gone on is cut", "streams.h", "event->cut = has_hole(stream);", "event->cut = 0;", UNSEEN),
    Mutant(
        "a process that is no target makes a hole",
        "tls.c",
        "\tif (stream)\n\t\tstream->epoch = 0;",
        "\tif (stream)\n\t\tstream->epoch += 0;",
        UNSEEN,
    ),
    Mutant("behind a hole the socket is unknown", "tls.c", "\t\tstream->sock = 0;", "\t\tstream->socket.method = 1;", UNSEEN),
    Mutant("what is attached in part tells nothing", "tls.c", "attachment < set->attached &&", "", UNSEEN),
    Mutant("what is being taken off tells nothing", "tls.c", " && attachment != set->detaching", "", UNSEEN),
    Mutant(
        "a call of another epoch is over",
        "tls.c",
        "bool current = top->epoch == epoch;",
        "bool current = top->epoch <= epoch;",
        UNSEEN,
    ),
    Mutant(
        "a return is told by who told of the call",
        "tls.c",
        " || frame->attachment != ATTACHMENT_OF(bpf_get_attach_cookie(ctx)))",
        ")",
        UNSEEN,
    ),
    Mutant("what executes another program is told", "processes.c", "\ttell_process(EVENT_EXECUTED, capture);", "\t;", TLS),
    Mutant("what others move is a gap", "streams.h", "return emit_gap(stream, direction, foreign);", "return 0;", SOCKETS),
    Mutant(
        "a call without room is not in progress",
        "sockets.c",
        "\tif (call.counted)\n\t\tleave_out_call(",
        "\tif (false)\n\t\tleave_out_call(",
        SOCKETS,
    ),
    Mutant("TLS that is not followed is told", "sockets.c", "stream->bypassed = 1;", "stream->bypassed = 0;", TLS),
    Mutant(
        "ciphertext binds",
        "sockets.c",
        "bind_by_tag(call, first, first_length, capture)",
        "bind_by_tag(call, first, 0, capture)",
        TLS,
    ),
    Mutant(
        "nested calls bind",
        "sockets.c",
        "return bind_tls(&key, call, BOUND_NESTED, capture);",
        "return capture ? 0 : bind_tls(&key, call, BOUND_NESTED, capture);",
        TLS,
    ),
    Mutant("a bound stream stays bound", "sockets.c", "if (!stream || stream->socket.method)", "if (!stream)", TLS),
    Mutant("ciphertext is not delivered", "sockets.c", "stream->encrypted ? SOURCE_OPAQUE : SOURCE_SOCKET", "SOURCE_SOCKET", TLS),
    Mutant(
        "TLS may begin on a plain socket",
        "sockets.c",
        "stream->encrypted = starts_tls(",
        "stream->encrypted = 0 & starts_tls(",
        SOCKETS,
    ),
    Mutant(
        "a body that looks like TLS is a body",
        "sockets.c",
        " && (opening == OPENS_SERVER_HELLO || opening == OPENS_RECORD_HEAD)",
        "",
        SOCKETS,
    ),
    Mutant(
        "a body that asks for a tunnel is one",
        "sockets.c",
        "record && turn & TURN_ANSWERED",
        "record && turn & TURN_TUNNEL",
        SOCKETS,
    ),
    Mutant(
        "a stream outlives its connection",
        "sockets.c",
        "(state == TCP_CLOSE && !BPF_CORE_READ(sk, sk_socket, sk))",
        "state == TCP_CLOSE",
        SOCKETS,
    ),
    Mutant("a stream ends with its socket", "sockets.c", "return end_socket(ctx->args[0]);", "return 0;", SOCKETS),
    Mutant("a new connection is a new stream", "sockets.c", "state == TCP_SYN_SENT ||", "", SOCKETS),
    Mutant("MPTCP's sockets end", "sockets.c", "(state == TCP_CLOSE && ", "(state == 99 && ", SOCKETS),
    Mutant("MSG_TRUNC stores nothing", "sockets.c", "(MSG_TRUNC | MSG_OOB", "(MSG_OOB", SOCKETS),
    Mutant("MSG_OOB is out of order", "sockets.c", "(MSG_TRUNC | MSG_OOB", "(MSG_TRUNC", SOCKETS),
    Mutant("MSG_PEEK takes nothing", "sockets.c", "flags & (MSG_PEEK | MSG_ERRQUEUE)", "flags & MSG_ERRQUEUE", SOCKETS),
    Mutant(
        "preadv2 and pwritev2 count",
        "sockets.c",
        "SYS_preadv2:\n\tcase SYS_pwritev2:\n\tcase SYS_sendfile:",
        "SYS_sendfile:",
        SOCKETS,
    ),
    Mutant("preadv2 reads", "sockets.c", "SYS_preadv2:\n\tcase SYS_splice:", "SYS_splice:", SOCKETS),
    Mutant(
        "splice into a socket writes",
        "sockets.c",
        "return note_call(regs, SYS_sendfile, out);",
        "return note_call(regs, SYS_splice, out);",
        SOCKETS,
    ),
    Mutant(
        "a read of nothing is no end by itself",
        "sockets.c",
        "asks_for_bytes(call) && all_was_read(sk))",
        "asks_for_bytes(call) && (all_was_read(sk) || true))",
        SOCKETS,
    ),
    Mutant("every segment is read", "streams.h", "\t\te->segments--;", "\t\te->segments = 0;", SOCKETS),
    Mutant("offsets count bytes", "streams.h", "\te->offset += n;", "\te->offset += 1;", SOCKETS),
    Mutant(
        "a gap counts as seen",
        "streams.h",
        "u64 offset = __sync_fetch_and_add(&tally->seen, length);",
        "u64 offset = tally->seen;",
        SOCKETS,
    ),
    Mutant("a loss is in the stream's tally", "streams.h", "\t\t\te->lost += n;", "\t\t\t;", OVERFLOW),
    Mutant("small events find room", "streams.h", "waiting + n > e->ring_limit", "false", FULL),
    Mutant("a call is read to its end", "streams.h", "#define BATCHES_MAX 512", "#define BATCHES_MAX 4", LARGE),
    Mutant(
        "a socket that calls again is not what it was",
        "takeover.bpf.c",
        "bpf_sk_storage_delete(&sockets, ctx->sk);",
        ";",
        f"{TAKEOVER}::test_a_socket_that_calls_again_is_not_taken_for_what_it_was",
    ),
    Mutant(
        "a bound socket's unspecified address is its own",
        "takeover.bpf.c",
        "own ? own : LOOPBACK",
        "own ? LOOPBACK : LOOPBACK",
        f"{TAKEOVER}::test_the_unspecified_address_is_a_bound_socket_s_own",
    ),
    Mutant(
        "another machine is not this one",
        "takeover.bpf.c",
        "!bpf_map_lookup_elem(&own_addresses, &address)",
        "!bpf_map_lookup_elem(&own_addresses, &address) && false",
        f"{NETWORK}::test_another_machine_is_not_taken_for_this_one_by_its_port",
    ),
    Mutant(
        "an address that went away is not this machine's",
        "takeover.bpf.c",
        "skb->ifindex == LOOPBACK_INDEX",
        "skb->ifindex",
        f"{NETWORK}::test_an_address_that_is_this_machine_s_no_more_is_not_reached",
    ),
    Mutant(
        "what others serve on this machine is not the workload's",
        "takeover.bpf.c",
        "\tbpf_sk_release(listener);\n\treturn own;",
        "\tbpf_sk_release(listener);\n\treturn own || true;",
        f"{TAKEOVER}::test_what_others_serve_at_the_machine_s_own_address_is_refused",
    ),
    Mutant(
        "the unspecified address of a socket that is tied to a device is not the loopback",
        "takeover.bpf.c",
        "own || sk->bound_dev_if <= LOOPBACK_INDEX",
        "true",
        f"{TAKEOVER}::test_the_unspecified_address_of_a_socket_that_is_tied_to_a_device_is_not_the_loopback",
    ),
    Mutant(
        "a call that failed lends its port to nobody", "takeover.bpf.c", "bpf_map_delete_elem(&originals, &local);", ";", CALLERS
    ),
    Mutant("only the workload asks the resolver", "takeover.bpf.c", "skb->priority == VOUCHED ? -1 : 0", "-1", CALLERS),
    Mutant(
        "an answer comes from the server that was asked",
        "takeover.bpf.c",
        "place = asked->next++ & (SERVERS_MAX - 1);",
        "place = 0;",
        f"{TAKEOVER}::test_an_answer_comes_from_the_server_that_was_asked",
    ),
    Mutant(
        "who departed is known by its start",
        "departures.bpf.c",
        "BPF_CORE_READ(task, group_leader, start_boottime)",
        "0",
        DEPARTURES,
    ),
)


def survives(mutant: Mutant, tree: Path) -> bool:
    """Whether no test notices."""
    file = tree / "probes" / mutant.file
    text = file.read_text()
    if text.count(mutant.old) != 1:
        raise SystemExit(f"{mutant.rule}: {mutant.file} has {text.count(mutant.old)} times what the mutant replaces: adapt it")
    try:
        file.write_text(text.replace(mutant.old, mutant.new))
        subprocess.run(["make", "-s", "-o", "build/.toolchain", "probes"], cwd=tree, check=True, stdout=subprocess.DEVNULL)
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", mutant.tests]
        done = subprocess.run(command, cwd=tree, timeout=SECONDS, check=False, stdout=subprocess.PIPE, text=True)
    finally:
        file.write_text(text)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{mutant.rule}: the tests did not run: {done.stdout}")
    red = next(
        (line.split("::")[1].split(" - ")[0] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))), ""
    )
    print(f"{red or 'survived':80} {mutant.rule}", flush=True)
    return not red


def main() -> None:
    """Try the mutants whose rule contains one of the words given, or all."""
    chosen = [mutant for mutant in MUTANTS if not sys.argv[1:] or any(word in mutant.rule for word in sys.argv[1:])]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".venv", ".git", ".demo", "build", "__pycache__"))
        (tree / "build").mkdir()
        (tree / "build/.toolchain").touch()
        survived = [mutant for mutant in chosen if survives(mutant, tree)]
    sys.exit(f"{len(survived)} of {len(chosen)} survived" if survived else 0)


if __name__ == "__main__":
    main()
