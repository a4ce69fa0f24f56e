"""Origins on 127.0.0.1 for scripts/clients: HTTP/1.1 with files, an echo and WebSocket, over TLS too."""

import base64
import hashlib
import http.server
import pathlib
import socketserver
import threading


class Origin(http.server.BaseHTTPRequestHandler):
    """Says what was asked for, echoes what is posted, serves the files in its folder, and speaks
    WebSocket at /socket."""

    protocol_version = "HTTP/1.1"
    folder = pathlib.Path()

    def do_GET(self):
        if self.headers.get("Upgrade", "").lower() == "websocket":
            return self.socket()
        path = self.path.split("?")[0]
        file = self.folder / path.lstrip("/")
        if path.endswith("/"):
            file /= "index.html"
        if path.startswith("/say/"):
            self.answer(200, path.encode(), "text/plain")
        elif file.is_file():
            kind = "text/html" if file.suffix == ".html" else "application/octet-stream"
            self.answer(200, file.read_bytes(), kind)
        else:
            self.answer(404, b"no such file", "text/plain")

    do_HEAD = do_GET

    def do_POST(self):
        if self.headers.get("Transfer-Encoding"):
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200, body, "application/octet-stream")

    def answer(self, status, body, kind):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def socket(self):
        """RFC 6455: echoes short frames until one closes."""
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.send_header("Sec-WebSocket-Accept", accept)
        self.end_headers()
        self.close_connection = True
        while head := self.rfile.read(2):
            length = head[1] & 127
            mask = self.rfile.read(4)
            text = bytes(byte ^ mask[at % 4] for at, byte in enumerate(self.rfile.read(length)))
            self.wfile.write(bytes([head[0], length]) + text)
            self.wfile.flush()
            if head[0] & 15 == 8:
                return

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 128
    context = None

    def finish_request(self, request, client_address):
        # Here, in a thread of its own: a client that does not shake hands is to stop nobody else.
        if self.context:
            request = self.context.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def handle_error(self, *_):
        pass


def serve(folder, context=None):
    handler = type("Here", (Origin,), {"folder": folder})
    server = Server(("127.0.0.1", 0), handler)
    server.context = context
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]
