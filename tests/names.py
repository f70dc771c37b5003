"""A program with open files whose names are gone: deleted ones over CRIU's own limit, on disk and in /dev/shm, one that
has another name, and a named semaphore, which glibc makes under a name of its own.
"""

NAMES = """
import ctypes, hashlib, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.sem_open.restype = ctypes.c_void_p
def deleted(path):
    file = open(path, "w+b")
    file.write(os.urandom(3 << 20)); file.flush(); os.unlink(path)
    return file
def digest(file):
    file.seek(0)
    return hashlib.sha256(file.read()).digest()
gone = [deleted("/var/big"), deleted("/dev/shm/big")]
before = [digest(file) for file in gone]
one = open("/tmp/one", "w")
os.link("/tmp/one", "/tmp/two"); os.unlink("/tmp/one")
semaphore = ctypes.c_void_p(libc.sem_open(b"/gate", os.O_CREAT, 0o600, 0))
if sys.argv[1:]: mptcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262); mptcp.listen()
def look():
    print("x", end="", file=one, flush=True)
    libc.sem_post(semaphore)
    value = ctypes.c_int()
    libc.sem_getvalue(ctypes.c_void_p(libc.sem_open(b"/gate", 0)), ctypes.byref(value))
    names = sorted(os.listdir("/tmp") + os.listdir("/dev/shm"))
    return f"{before == [digest(file) for file in gone]} {len(open('/tmp/two').read()) - value.value} {names}"
listener = socket.create_server(("", 7))
while True:
    connection, _ = listener.accept()
    connection.sendall(look().encode()); connection.close()
"""
ASK = "import socket; print(socket.create_connection(('127.0.0.1', 7), 10).makefile().read())"
WHOLE = "True 0 ['sem.gate', 'two']"
"""What it answers who asks."""
LEFT = ["find", "/var/lib/containers/storage", "-name", "link_remap*"]
