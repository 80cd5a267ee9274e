// A DTLS server on pion/dtls 2.2, used as server.c is: a goroutine for each peer.
package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"

	"github.com/pion/dtls/v2"
	"github.com/pion/dtls/v2/pkg/protocol"
	"github.com/pion/dtls/v2/pkg/protocol/recordlayer"
	"github.com/pion/udp"
)

const (
	shortest = 100
	backlog  = 1024
)

// sessions keeps what can be resumed, by session id.
type sessions struct {
	sync.Mutex
	known map[string]dtls.Session
}

func (s *sessions) Set(key []byte, session dtls.Session) error {
	s.Lock()
	defer s.Unlock()
	s.known[string(key)] = session
	return nil
}

func (s *sessions) Get(key []byte) (dtls.Session, error) {
	s.Lock()
	defer s.Unlock()
	return s.known[string(key)], nil
}

func (s *sessions) Del(key []byte) error {
	s.Lock()
	defer s.Unlock()
	delete(s.known, string(key))
	return nil
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}

func suite(name string) dtls.CipherSuiteID {
	if name != "ECDHE-ECDSA-AES128-GCM-SHA256" {
		check(fmt.Errorf("not a suite that this knows: %s", name))
	}
	return dtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
}

// Only a handshake's records begin a peer, as in dtls.Listen.
func isHandshake(packet []byte) bool {
	records, err := recordlayer.UnpackDatagram(packet)
	if err != nil || len(records) < 1 {
		return false
	}
	header := &recordlayer.Header{}
	return header.Unmarshal(records[0]) == nil && header.ContentType == protocol.ContentTypeHandshake
}

func serve(parent net.Conn, config *dtls.Config, echo bool, size int) {
	conn, err := dtls.Server(parent, config)
	if err != nil {
		parent.Close()
		return
	}
	defer conn.Close()
	buffer := make([]byte, 2048)
	message := bytes.Repeat([]byte("m"), size)
	received := 0
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return
		}
		switch {
		case n >= shortest && echo:
			conn.Write(buffer[:n])
		case n >= shortest:
			received++
		case bytes.HasPrefix(buffer[:n], []byte("send ")):
			count, _ := strconv.Atoi(string(buffer[5:n]))
			for i := 0; i < count; i++ {
				conn.Write(message)
			}
			conn.Write([]byte(fmt.Sprintf("sent %d", count)))
		default:
			conn.Write([]byte(fmt.Sprintf("count %d", received)))
		}
	}
}

func main() {
	if len(os.Args) != 9 {
		check(fmt.Errorf("usage: %s echo|sink one single|many CERTIFICATE KEY CIPHER MTU SIZE", os.Args[0]))
	}
	pair, err := tls.LoadX509KeyPair(os.Args[4], os.Args[5])
	check(err)
	mtu, err := strconv.Atoi(os.Args[7])
	check(err)
	size, err := strconv.Atoi(os.Args[8])
	check(err)
	config := &dtls.Config{
		Certificates: []tls.Certificate{pair},
		CipherSuites: []dtls.CipherSuiteID{suite(os.Args[6])},
		MTU:          mtu,
		SessionStore: &sessions{known: map[string]dtls.Session{}},
	}
	listen := udp.ListenConfig{Backlog: backlog, AcceptFilter: isHandshake}
	listener, err := listen.Listen("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	check(err)
	fmt.Println("LISTENING", listener.Addr().(*net.UDPAddr).Port, runtime.Version()+", pion/dtls 2.2")
	for {
		conn, err := listener.Accept()
		check(err)
		go serve(conn, config, os.Args[1] == "echo", size)
	}
}
