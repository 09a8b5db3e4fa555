"""What makes a replaced function run: one row for each pair that a plain command reaches.

A function that no row reaches is still seen to be redirected (`visit`); a row
adds that its new code runs. `modules` are loaded for the command only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Trigger:
    """A shell command, or with `python` a program for the host's interpreter inside the guest.

    `reaches` are the replaced functions whose new versions must have run; `says`
    is in what the kernel rightly complains of.
    """

    reaches: tuple[str, ...]
    shell: str = ""
    python: str = ""
    modules: tuple[str, ...] = ()
    says: str = ""


_AF_ALG: Final = """
import os, socket
s = socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)
s.bind(("skcipher", "ecb(cipher_null)"))
op, _ = s.accept()
op.sendmsg_afalg([b"0123456789abcdef"], op=socket.ALG_OP_ENCRYPT, flags=socket.MSG_MORE)
with open("/etc/passwd", "rb") as file:
    os.sendfile(op.fileno(), file.fileno(), 0, 16)
assert op.recv(16) == b"0123456789abcdef"
"""

_IO_URING: Final = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
ring = libc.syscall(425, 4, ctypes.create_string_buffer(120))  # io_uring_setup
page = ctypes.create_string_buffer(4096)
vector = (ctypes.c_uint64 * 2)(ctypes.addressof(page), 4096)
assert ring >= 0 and libc.syscall(427, ring, 0, vector, 1) == 0  # io_uring_register, IORING_REGISTER_BUFFERS
"""

_SECRETMEM: Final = """
import ctypes, mmap, os
secret = ctypes.CDLL(None, use_errno=True).syscall(447, 0)  # memfd_secret
assert secret >= 0, ctypes.get_errno()
os.ftruncate(secret, 4096)
with mmap.mmap(secret, 4096) as place:
    place[:6] = b"hidden"
    assert place[:6] == b"hidden"
os.close(secret)
"""

_ORANGEFS: Final = """
import os
major = next(row.split()[0] for row in open("/proc/devices") if row.endswith(" pvfs2-req\\n"))
os.mknod("/dev/pvfs2-req", 0o20600, os.makedev(int(major), 0))
device = os.open("/dev/pvfs2-req", os.O_RDWR | os.O_NONBLOCK)
os.unlink("/dev/pvfs2-req")
try:
    os.write(device, b"too short")
except OSError:
    pass
"""

_RDS: Final = """
import socket
s = socket.socket(21, socket.SOCK_SEQPACKET)  # AF_RDS
for option in (10001, 10003, 10004, 10011, 10012, 10013):  # RDS_INFO_*, RDS6_INFO_*: connections, messages
    try:
        s.getsockopt(276, option, 1024)
    except OSError:
        pass
"""

_PPP: Final = """
import fcntl, os
ours, theirs = os.openpty()
fcntl.ioctl(theirs, 0x5423, (3).to_bytes(4, "little"))  # TIOCSETD, N_PPP
os.write(ours, bytes.fromhex("7eff7d23c0217e"))
unit = bytearray(4)
fcntl.ioctl(theirs, 0x80047437, unit)  # PPPIOCGCHAN
os.close(theirs)
os.close(ours)
"""

_VXLAN: Final = """
import socket, struct
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
message = struct.pack("=BBHI", 7, 0, 0, 99)  # struct tunnel_msg: PF_BRIDGE, no such device
s.send(struct.pack("=IHHII", 16 + len(message), 120, 5, 1, 0) + message)  # RTM_NEWTUNNEL
assert s.recv(4096)[4:6] == bytes((2, 0))  # NLMSG_ERROR
"""

_NETLINK: Final = """
import fcntl, os, socket, struct, time

def attribute(kind, value):
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)

def ask(link, kind, flags, text):
    link.send(struct.pack("=IHHII", 16 + len(text), kind, 1 | flags, 1, 0) + text)
    answer = link.recv(65536)
    if answer[4:6] == bytes((2, 0)):  # NLMSG_ERROR
        return struct.unpack_from("=i", answer, 16)[0], answer
    return 0, answer

def family(name):
    _, answer = ask(generic, 16, 0, struct.pack("=BBH", 3, 1, 0) + attribute(2, name.encode() + bytes(1)))
    at = 20
    while at < len(answer):
        size, kind = struct.unpack_from("=HH", answer, at)
        if kind == 1:  # CTRL_ATTR_FAMILY_ID
            return struct.unpack_from("=H", answer, at + 4)[0]
        at += size + 3 & ~3

def command(number, *attributes):
    return struct.pack("=BBH", number, 1, 0) + b"".join(attributes)

def up(name):
    s = socket.socket()
    fcntl.ioctl(s, 0x8914, struct.pack("16sH14x", name, 1))  # SIOCSIFFLAGS, IFF_UP

generic = socket.socket(16, socket.SOCK_RAW, 16)
generic.settimeout(20)
route = socket.socket(16, socket.SOCK_RAW, 0)
"""

_GTP: Final = (
    _NETLINK
    + """
up(b"lo")
tunnel = socket.socket(2, socket.SOCK_DGRAM)
tunnel.bind(("127.0.0.1", 2152))
settings = attribute(2, struct.pack("=I", tunnel.fileno()))  # IFLA_GTP_FD1
info = attribute(1, b"gtp") + attribute(2, settings)
named = attribute(3, b"gtp9" + bytes(1))
error, _ = ask(route, 16, 0x604, bytes(16) + named + attribute(18, info))  # RTM_NEWLINK
assert not error, os.strerror(-error)
socket.socket(2, socket.SOCK_DGRAM).sendto(bytes((0x30, 1, 0, 4)) + bytes(8), ("127.0.0.1", 2152))
gtp = family("gtp")
for number in (0, 1):  # GTP_CMD_NEWPDP, GTP_CMD_DELPDP
    error, _ = ask(generic, gtp, 4, command(number))
    assert error == -22
error, _ = ask(route, 17, 4, bytes(16) + named)  # RTM_DELLINK
assert not error, os.strerror(-error)
"""
)

_TIPC: Final = (
    _NETLINK
    + """
up(b"lo")
def place(port):
    return struct.pack("=H", 2) + struct.pack(">H4s", port, socket.inet_aton("127.0.0.1")) + bytes(120)
tipc = family("TIPCv2")
name = attribute(1, b"udp:probe" + bytes(1))
def options(*rows):
    return attribute(4, b"".join(rows))  # TIPC_NLA_BEARER_UDP_OPTS
enable = attribute(1, name + options(attribute(1, place(6118)), attribute(2, place(6118))))
error, _ = ask(generic, tipc, 4, command(3, enable))  # TIPC_NL_BEARER_ENABLE
assert not error, os.strerror(-error)
more = attribute(1, name + options(attribute(2, place(6119))))
error, _ = ask(generic, tipc, 4, command(21, more))  # TIPC_NL_BEARER_ADD
assert not error, os.strerror(-error)
time.sleep(2)
error, _ = ask(generic, tipc, 4, command(2, attribute(1, name)))  # TIPC_NL_BEARER_DISABLE
assert not error, os.strerror(-error)
time.sleep(2)
"""
)

_AUDIT: Final = (
    _NETLINK
    + """
os.mkdir("/run/watched")
path = b"/run/watched"
fields = [0] * 64
values, flags, masks = fields[:], fields[:], [0xFFFFFFFF] * 64
fields[0], values[0], flags[0] = 107, len(path), 0x40000000  # AUDIT_DIR, AUDIT_EQUAL
rule = struct.pack("=III64I64I64I64II", 4, 2, 1, *masks, *fields, *values, *flags, len(path)) + path
audit = socket.socket(16, socket.SOCK_RAW, 9)
error, _ = ask(audit, 1011, 4, rule)  # AUDIT_ADD_RULE
assert not error, os.strerror(-error)
os.rmdir("/run/watched")
time.sleep(2)
"""
)

_APPLETALK: Final = (
    _NETLINK
    + """
import ctypes
up(b"dummy0")
def address(node):  # struct sockaddr_at, with the range of the net in sat_zero
    return struct.pack("=HBx", 5, 4) + struct.pack(">HBxBxHHxx", 100, node, 2, 100, 100)
s = socket.socket(5, socket.SOCK_DGRAM)
fcntl.ioctl(s, 0x8916, struct.pack("16s16s", b"dummy0", address(9)))  # SIOCSIFADDR
s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
libc = ctypes.CDLL(None, use_errno=True)
sent = libc.sendto(s.fileno(), b"hello", 5, 0, address(44), 16)
assert sent == 5, os.strerror(ctypes.get_errno())
"""
)

_GADGET: Final = """
mount -t configfs none /sys/kernel/config || exit 1
cd /sys/kernel/config/usb_gadget && mkdir g && cd g/os_desc || exit 1
printf MSFT100 > qw_sign && cat qw_sign
status=$?
cd / && rmdir /sys/kernel/config/usb_gadget/g && umount /sys/kernel/config
exit $status
"""

TRIGGERS: Final = {
    "crypto__af_alg": Trigger(
        ("af_alg_sendpage", "af_alg_get_rsgl"), python=_AF_ALG, modules=("algif_skcipher", "crypto_null")
    ),
    "drivers__net__gtp": Trigger(
        ("gtp_encap_recv", "gtp_dellink", "gtp_newlink", "gtp_genl_del_pdp", "gtp_genl_new_pdp"), python=_GTP
    ),
    "drivers__net__ppp__ppp_async": Trigger(
        ("ppp_asynctty_open", "ppp_asynctty_receive", "ppp_asynctty_ioctl", "ppp_asynctty_close"), python=_PPP
    ),
    "drivers__net__vxlan__vxlan_vnifilter": Trigger(("vxlan_vnifilter_process",), python=_VXLAN),
    "drivers__usb__gadget__configfs": Trigger(("os_desc_qw_sign_show", "os_desc_qw_sign_store"), shell=_GADGET),
    "fs__hugetlbfs__inode": Trigger(
        ("hugetlbfs_fill_super",), shell="mkdir -p /run/huge && mount -t hugetlbfs none /run/huge && umount /run/huge"
    ),
    "fs__orangefs__devorangefs-req": Trigger(
        ("orangefs_devreq_write_iter",), python=_ORANGEFS, says="orangefs_devreq_write_iter: total:9: must be at least"
    ),
    "io_uring__rsrc": Trigger(("io_pin_pages",), python=_IO_URING),
    "kernel__audit_tree": Trigger(("kill_rules",), python=_AUDIT),
    "mm__secretmem": Trigger(
        ("secretmem_mmap", "secretmem_file_create.constprop.0", "secretmem_release", "secretmem_fault"),
        python=_SECRETMEM,
    ),
    "mm__swapfile": Trigger(("__x64_sys_swapon",), shell="swapon /etc/passwd; test $? = 1"),
    "net__appletalk__aarp": Trigger(("aarp_send_ddp",), python=_APPLETALK, modules=("dummy",)),
    "net__core__pktgen": Trigger(("pg_net_init",), shell="unshare -n true"),
    "net__rds__connection": Trigger(
        ("rds_conn_info", "rds6_conn_info", "rds_conn_message_info_send", "rds_conn_message_info_retrans",
         "rds6_conn_message_info_send", "rds6_conn_message_info_retrans"),
        python=_RDS,
    ),
    "net__tipc__core": Trigger(("tipc_exit_net",), shell="unshare -n true; sleep 2"),
    "net__tipc__udp_media": Trigger(
        ("tipc_udp_rcast_add", "cleanup_bearer", "tipc_udp_recv", "tipc_udp_enable", "tipc_udp_nl_bearer_add"),
        python=_TIPC,
    ),
    "security__apparmor__procattr": Trigger(("aa_getprocattr",), shell="cat /proc/self/attr/apparmor/current"),
}  # fmt: skip
