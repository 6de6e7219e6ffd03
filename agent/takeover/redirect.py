"""Takeovers: whose calls go where, from the moment before a process begins until the last below it has ended.

The hooks belong to the workload's cgroup and stay as long as it does, whoever of us is gone; a keeper makes them refuse what went
to this process or to the responder, once these have ended. When a client is gone while processes are left, the hooks stay and
refuse what the responder answered before.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import itertools
import os
import select
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent import describe, files, workloads
from agent.departed import Departed, departed
from agent.kernel.departures import Departures
from agent.kernel.takeover import Hooks
from agent.news import Outbox
from agent.takeover import helper, network, sockets, trust
from agent.takeover.bundles import Command
from agent.takeover.dns import Own, Resolver, Server
from agent.takeover.events import Action, Address, Call, Settings, decode, network_order
from agent.takeover.keeper import Plan, populated, without_names, without_responder
from agent.takeover.names import Backend, Names, Way, actions_of, normal, read_hosts, read_resolver_configuration
from agent.takeover.trust import Trust
from agent.workloads import Cgroup, Workload

LOOPBACK: tuple[Address, ...] = (ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1"))

FILE_MAX = 4 << 20
"""Bytes of a hosts or resolv.conf that are read: the workload may write what it likes there. The largest that people have, lists
against advertisements, take 2 to 6 MiB and have their own hosts first."""


@dataclass(frozen=True, slots=True)
class Responder:
    """Who answers: a process, and its ports on 127.0.0.1 and ::1 (0: none)."""

    pid: int
    port4: int
    port6: int = 0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a client asks for; see RedirectRequest in proto/understudy/v1/agent.proto."""

    name: str
    launched_pid: int
    responder: Responder
    recorded: tuple[Backend, ...] = ()
    passed: tuple[Backend, ...] = ()
    refused: tuple[Backend, ...] = ()
    pass_unrecorded: bool = False
    keep_departed: bool = False
    ca: str = ""
    command: Command = field(default_factory=Command)


@dataclass(frozen=True, slots=True)
class Told:
    """Equal calls of one process, how many, and the name that their address was given for."""

    call: Call
    count: int
    host: str
    workload: Workload


@dataclass(frozen=True, slots=True)
class Unread:
    """A list of certificates that a process read as it is, without the responder's authority."""

    path: str
    workload: Workload


@dataclass(frozen=True, slots=True)
class TrustEnded:
    """Nobody watches any more for lists of certificates that show."""

    reason: str


class Redirect:
    """One takeover. Nothing of it is there before start(), which leaves nothing behind where it fails."""

    def __init__(self, number: int, wanted: Wanted) -> None:
        self.wanted = wanted
        self.news = Outbox[Told | Departed | Unread | TrustEnded]()
        self.trust = Trust()
        self.names = _names(wanted)
        self.untold = self._starts = 0
        self._number = number
        self._rules: dict[tuple[Address, int], tuple[Action, Address | None]] = {}
        self._ending = threading.Event()
        self._wake, self._woken = os.pipe()
        self._undo = contextlib.ExitStack()
        self._undo.callback(os.close, self._wake)
        self._undo.callback(os.close, self._woken)

    @property
    def cgroup(self) -> Path:
        """The workload's."""
        return self._cgroup.path

    def start(self, mount: Path) -> None:
        """Take over. OSError, ValueError or LookupError tell what is wrong."""
        wanted, pid = self.wanted, self.wanted.launched_pid
        with self._undo:
            for each in (pid, wanted.responder.pid):
                if not workloads.started(each):
                    raise LookupError(f"there is no process {each}")
            self._hooks = Hooks()
            self._undo.callback(self._hooks.close)
            self._write_rules(_read(pid, "etc/hosts"))
            for address in network.addresses(pid):
                if not address.is_loopback:
                    self._hooks.own(address)
            self._resolver = Resolver(self.names, _servers(pid), self._learned, self._hooks.question_filter)
            self._undo.callback(self._resolver.stop)
            self._resolver.start(pid)
            loopback = network.Loopback(pid, os.getpid() + self._number)
            self._undo.callback(loopback.stop)
            loopback.start()
            self._settings = _settings(wanted, self._resolver)
            self._hooks.set(self._settings)
            self._cgroup = Cgroup.for_launched(mount, f"{os.getpid()}-redirect-{self._number}", pid)
            self._undo.callback(self._cgroup.remove)
            self._undo_attaching = self._undo.enter_context(contextlib.ExitStack())
            self._undo_attaching.callback(self._hooks.detach, self._cgroup.path)
            self._hooks.attach(self._cgroup.path, _cgroup_of(mount, wanted.responder.pid))
            self._departures = Departures()
            self._undo.callback(self._departures.close)
            self._departures.watch(self._cgroup.path, mount, refuse=not wanted.keep_departed)
            if wanted.ca:
                self.trust = trust.extend(pid, wanted.ca, wanted.command)
                if self.trust.helper:
                    self._undo.callback(self.trust.helper.stop)
            self._cgroup.adopt(pid)
            self._departures.add(pid)
            self._self, self._responder = os.pidfd_open(os.getpid()), _pidfd(wanted.responder.pid)
            self._responder_sockets = sockets.taken(wanted.responder.pid, (wanted.responder.port4, wanted.responder.port6))
            self._events = os.open(self._cgroup.path / "cgroup.events", os.O_RDONLY)
            for fd in (self._self, self._responder, self._events):
                self._undo.callback(os.close, fd)
            self._undo.callback(self._release_ports)
            self._keeper = self._keep()
            self._thread = threading.Thread(target=self._watch, name="redirect", daemon=True)
            self._thread.start()
            self._undo_attaching.pop_all()  # from here on the hooks go with the cgroup
            self._undo = self._undo.pop_all()

    def stop(self) -> None:
        """Answer no more. What is left of the workload is refused; where nothing is, nothing stays."""
        for change in (without_names, without_responder):
            change(self._settings)
        self._hooks.set(self._settings)
        self._ending.set()
        os.write(self._woken, b"\0")
        self._thread.join()
        self._undo.close()

    def _keep(self) -> helper.Kept:
        plan = Plan(
            str(self._cgroup.path),
            self._hooks.settings_fd,
            self._self,
            self._responder,
            tuple(self._resolver.sockets),
            tuple(self._responder_sockets),
            (*self._hooks.link_fds, *self._departures.link_fds),
        )
        return helper.Kept("keeper", plan.dump(), keep=plan.descriptors)

    # --- What goes where ---

    def _write_rules(self, hosts_file: str) -> None:
        hosts = {"localhost": LOOPBACK} | read_hosts(hosts_file)
        wanted = self.wanted
        recorded = _without(wanted.recorded, wanted.passed)
        # Where two backends share an address, the real one is not reached by mistake: the first rule of an address and port counts.
        for action, backends in ((Action.RESPOND, recorded), (Action.PASS, wanted.passed), (Action.REFUSE, wanted.refused)):
            for backend in backends:
                host = normal(backend.host)
                literal = (backend.literal,) if backend.literal else ()
                known = tuple(map(_reached, (*backend.addresses, *hosts.get(host, ()), *literal)))
                self.names.saw(host, known)
                for address in known:
                    if (address, backend.port) not in self._rules:
                        self._rule(address, backend.port, action)
        for name in self.names.ports:
            if self.names.way(name) is Way.OWN and (own := self.names.own(name)):
                self._learned(name, own, ())

    def _learned(self, name: str, own: Own, real: Sequence[Address]) -> None:
        """The addresses that a program gets for a name, and those that they stand for; called on the resolver's thread, too."""
        for port, action in self.names.ports.get(name, {}).items():
            for address in own:
                stands_for = next((each for each in real if each.version == address.version), None)
                if action is Action.RESPOND or stands_for:
                    with contextlib.suppress(OSError):  # no room: the call is refused, which shows
                        self._rule(address, port, action, stands_for if action is Action.PASS else None)

    def _rule(self, address: Address, port: int, action: Action, real: Address | None = None) -> None:
        if self._rules.get((address, port)) != (action, real):
            self._hooks.rule(address, port, action, real)
            self._rules[address, port] = action, real

    # --- What happens ---

    def _watch(self) -> None:
        """Pass the news on until the workload has ended or stop() is called."""
        poll = select.poll()
        poll.register(self._events, select.POLLPRI)
        for fd in (self._hooks.epoll_fd, self._departures.epoll_fd, self._wake, self._responder, self._keeper.fd):
            poll.register(fd, select.POLLIN)
        if self.trust.helper:
            poll.register(self.trust.helper.fd, select.POLLIN)
        while populated(self._events) and not self._ending.is_set():
            ready = {fd for fd, _ in poll.poll()}
            self._pass_on()
            if self._responder in ready:
                poll.unregister(self._responder)
                self._responder_ended()
            if self.trust.helper and self.trust.helper.fd in ready and not self._hear_of_bundles(self.trust.helper):
                poll.unregister(self.trust.helper.fd)
            if self._keeper.fd in ready:  # somebody has killed it
                poll.unregister(self._keeper.fd)
                self._starts += 1
                if self._starts < helper.STARTS_MAX:
                    self._keeper.forget()
                    self._keeper = self._keep()
                    poll.register(self._keeper.fd, select.POLLIN)
        self._pass_on()
        self._keeper.forget()
        self.news.end()

    def _hear_of_bundles(self, helper: trust.Helper) -> bool:
        """Pass on what was read as it is; whether there may be more."""
        news = helper.news()
        for each in news or ():
            self.news.put(Unread(each.path, workloads.look_up(each.pid)))
        if news is None:
            self.news.put(TrustEnded(helper.end()), always=True)
        return news is not None

    def _responder_ended(self) -> None:
        """Refuse first, so that nobody else's are called when its ports are let go of."""
        without_responder(self._settings)
        self._hooks.set(self._settings)
        self._release_ports()

    def _release_ports(self) -> None:
        while self._responder_sockets:
            os.close(self._responder_sockets.pop())

    def _pass_on(self) -> None:
        for record in self._departures.read():  # first: who has left shall call nobody
            self.news.put(self._depart(departed(record)))
        calls = Counter(map(decode, self._hooks.read()))
        look_up = functools.cache(workloads.look_up)  # many may be of one process
        for call, count in calls.items():
            workload = look_up(call.pid, command=call.command)
            _, real = self._rules.get((call.address, call.port), (None, None))
            shown = replace(call, address=real) if real else call
            self.news.put(Told(shown, count, self.names.name_of(call.address), workload), count=count)
        self.untold = self._hooks.lost + self._departures.unknown

    def _depart(self, left: Departed) -> Departed:
        """A process is gone from the cgroup: it ends, unless it may go on."""
        ended = not self.wanted.keep_departed and workloads.end(left.workload.pid, left.workload.started)
        return replace(left, ended=ended)


def _reached(address: Address) -> Address:
    """Where Linux connects a call of an address, which is how the hooks look it up: the unspecified one is the loopback."""
    return next(each for each in LOOPBACK if each.version == address.version) if address.is_unspecified else address


def _without(backends: Iterable[Backend], others: Iterable[Backend]) -> list[Backend]:
    taken = {(normal(other.host), other.port) for other in others}
    return [backend for backend in backends if (normal(backend.host), backend.port) not in taken]


def _names(wanted: Wanted) -> Names:
    configuration = read_resolver_configuration(_read(wanted.launched_pid, "etc/resolv.conf"))
    return Names(actions_of(wanted.recorded, wanted.passed), configuration.suffixes, wanted.pass_unrecorded)


def _servers(pid: int) -> list[Server]:
    configuration = read_resolver_configuration(_read(pid, "etc/resolv.conf"))
    return [Server(host) for host in configuration.servers or ("127.0.0.1",)]  # resolv.conf(5): where there is none


def _read(pid: int, path: str) -> str:
    """A file as the process sees it, of a large one whole lines from its start; "" where there is none that can be read."""
    with contextlib.suppress(OSError):
        place = files.place_in(f"/proc/{pid}/root", os.fsencode(path))
        with open(files.open_place(place), "rb") as file:
            data = file.read(FILE_MAX)
        return (data if len(data) < FILE_MAX else data[: data.rfind(b"\n") + 1]).decode(errors="replace")
    return ""


def _cgroup_of(mount: Path, pid: int) -> Path:
    path = mount / workloads.cgroup_of(pid).lstrip("/")
    return path if path.is_dir() else mount


def _settings(wanted: Wanted, resolver: Resolver) -> Settings:
    ports = resolver.ports
    return Settings(
        responder4=network_order(wanted.responder.port4),
        responder6=network_order(wanted.responder.port6),
        dns_udp4=tuple(map(network_order, ports.udp4)),
        dns_udp6=tuple(map(network_order, ports.udp6)),
        dns_tcp4=network_order(ports.tcp4),
        dns_tcp6=network_order(ports.tcp6),
        pass_unrecorded=wanted.pass_unrecorded,
    )


def _pidfd(pid: int) -> int:
    """Readable when the process has ended; at once, where it has."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        read, write = os.pipe()
        os.close(write)
        return read


class Redirects:
    """All takeovers of an agent. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active: dict[str, Redirect] = {}
        self._numbers = itertools.count(1)

    def start(self, wanted: Wanted) -> Redirect:
        """Take over. OSError, ValueError or LookupError tell what is wrong, and leave nothing behind."""
        describe.pid_namespace_check().require()
        mount = workloads.cgroup_mount()
        if mount is None:
            raise FileNotFoundError("cgroup v2 is not mounted: mount it: mount -t cgroup2 none /sys/fs/cgroup")
        with self._lock:
            if wanted.name in self._active:
                raise ValueError(f"there is a redirection {wanted.name!r}: choose another id")
            redirect = self._active[wanted.name] = Redirect(next(self._numbers), wanted)
        try:
            redirect.start(mount)
        except BaseException:
            with self._lock:
                del self._active[wanted.name]
            raise
        return redirect

    def stop(self, redirect: Redirect) -> None:
        """End one, if that is not done."""
        with self._lock:
            if self._active.pop(redirect.wanted.name, None) is not redirect:
                return
        redirect.stop()

    def stop_all(self) -> None:
        """End all."""
        for redirect in list(self._active.values()):
            self.stop(redirect)

    def active(self) -> Iterator[Redirect]:
        """Those that are on."""
        return iter(list(self._active.values()))
