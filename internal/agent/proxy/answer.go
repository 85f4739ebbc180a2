package proxy

import "strconv"

var statusText = map[int]string{
	400: "Bad Request", 408: "Request Timeout", 413: "Content Too Large",
	431: "Request Header Fields Too Large", 501: "Not Implemented",
	502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout",
}

// answer is a whole response of the proxy itself.
func answer(status int, why string, last bool) []byte {
	body := "sluice: " + why + "\n"
	b := append([]byte("HTTP/1.1 "), strconv.Itoa(status)...)
	b = append(b, ' ')
	b = append(b, statusText[status]...)
	b = append(b, "\r\nContent-Type: text/plain; charset=utf-8\r\nCache-Control: no-store\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(body)), 10)
	if last {
		b = append(b, "\r\nConnection: close"...)
	}
	b = append(b, "\r\n\r\n"...)
	return append(b, body...)
}
