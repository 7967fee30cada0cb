"""Peers of the scenario that are nobody's product: a server that speaks first, its clients, and a wire tap."""
import socket, struct, sys, threading, time

what = sys.argv[1]
if what == "smtp":
    both = ":" in sys.argv[2]
    family = socket.AF_INET6 if both else socket.AF_INET
    server = socket.create_server((sys.argv[2], int(sys.argv[3])), backlog=512, family=family, dualstack_ipv6=both)

    def talk(client):
        try:
            client.sendall(b"220 ready\r\n")
            while data := client.recv(4096):
                client.sendall(data)
        except OSError:
            pass
        client.close()

    while True:
        threading.Thread(target=talk, args=(server.accept()[0],), daemon=True).start()
elif what == "echo":
    # Answers datagrams on each of the ports, of both families.
    import select
    sockets = []
    for port in sys.argv[2:]:
        listening = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind(("::", int(port)))
        sockets.append(listening)
    while True:
        for ready in select.select(sockets, [], [])[0]:
            data, peer = ready.recvfrom(2048)
            ready.sendto(data, peer)
elif what == "ask":
    asking = socket.socket(socket.AF_INET6 if ":" in sys.argv[2] else socket.AF_INET, socket.SOCK_DGRAM)
    asking.settimeout(0.5)
    answered = "nothing"
    for _ in range(3):
        try:
            asking.sendto(b"anybody?", (sys.argv[2], int(sys.argv[3])))
            answered = asking.recv(64) == b"anybody?" and "answered"
            break
        except OSError:
            pass
    print(answered)
elif what == "marked":
    # As a sidecar's own connections are: no capture takes them.
    asking = socket.socket(socket.AF_INET6 if ":" in sys.argv[2] else socket.AF_INET)
    asking.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 1337)
    asking.settimeout(2)
    try:
        asking.connect((sys.argv[2], int(sys.argv[3])))
        print("connected" if asking.recv(11) == b"220 ready\r\n" else "other")
    except OSError:
        print("nothing")
elif what == "banner":
    took = []
    for _ in range(5):
        began = time.monotonic()
        with socket.create_connection((sys.argv[2], int(sys.argv[3])), timeout=10) as client:
            banner = client.recv(64)
            took.append(time.monotonic() - began)
            client.sendall(b"EHLO\r\n")
            echoed = client.recv(64)
    well = banner == b"220 ready\r\n" and echoed == b"EHLO\r\n"
    print("greeted" if well else (banner, echoed), "in time" if min(took[1:]) < 0.2 else took)
elif what == "burst":
    failed = 0
    for _ in range(int(sys.argv[4])):
        try:
            client = socket.create_connection((sys.argv[2], int(sys.argv[3])), timeout=10)
            client.sendall(b"\0" * 64)
            if client.recv(11) != b"220 ready\r\n":
                failed += 1
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        except OSError:
            failed += 1
    print("failed", failed)
elif what == "sniff":
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    tap.bind(("br0", 0))
    tap.setsockopt(263, 1, struct.pack("iHH8s", socket.if_nametoindex("br0"), 1, 0, b""))
    open(sys.argv[2], "ab").close()
    while True:
        packet = tap.recv(65535)
        with open(sys.argv[2], "ab") as out:
            out.write(packet + b"\n")
