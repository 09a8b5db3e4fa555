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
    "mm__secretmem": Trigger(
        ("secretmem_mmap", "secretmem_file_create.constprop.0", "secretmem_release", "secretmem_fault"),
        python=_SECRETMEM,
    ),
    "mm__swapfile": Trigger(("__x64_sys_swapon",), shell="swapon /etc/passwd; test $? = 1"),
    "net__core__pktgen": Trigger(("pg_net_init",), shell="unshare -n true"),
    "net__rds__connection": Trigger(
        ("rds_conn_info", "rds6_conn_info", "rds_conn_message_info_send", "rds_conn_message_info_retrans",
         "rds6_conn_message_info_send", "rds6_conn_message_info_retrans"),
        python=_RDS,
    ),
    "net__tipc__core": Trigger(("tipc_exit_net",), shell="unshare -n true; sleep 2"),
    "security__apparmor__procattr": Trigger(("aa_getprocattr",), shell="cat /proc/self/attr/apparmor/current"),
}  # fmt: skip
