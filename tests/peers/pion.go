// A DTLS client and server on pion/dtls 2.2. See peer.h for how it is used and what it prints.
package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/pion/dtls/v2"
)

var (
	host        = flag.String("host", "127.0.0.1", "")
	port        = flag.Int("port", 0, "")
	name        = flag.String("name", "", "")
	ca          = flag.String("ca", "", "")
	cert        = flag.String("cert", "", "")
	key         = flag.String("key", "", "")
	ciphers     = flag.String("ciphers", "", "")
	mtu         = flag.Int("mtu", 0, "")
	alpn        = flag.String("alpn", "", "")
	pskIdentity = flag.String("psk-identity", "", "")
	pskKey      = flag.String("psk-key", "", "")
	resume      = flag.Bool("resume", false, "")
)

// sessions keeps what can be resumed, by server (a client) or by session id (a server).
type sessions map[string]dtls.Session

func (s sessions) Set(key []byte, session dtls.Session) error {
	s[string(key)] = session
	return nil
}

func (s sessions) Get(key []byte) (dtls.Session, error) { return s[string(key)], nil }

func (s sessions) Del(key []byte) error {
	delete(s, string(key))
	return nil
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}

// suite is the cipher suite of that name.
func suite(name string) dtls.CipherSuiteID {
	for id := 0; id < 0x10000; id++ {
		if dtls.CipherSuiteName(dtls.CipherSuiteID(id)) == name {
			return dtls.CipherSuiteID(id)
		}
	}
	check(fmt.Errorf("pion does not know the suite %q", name))
	return 0
}

func configure(server bool) *dtls.Config {
	config := &dtls.Config{ServerName: *name, MTU: *mtu, SessionStore: sessions{}}
	if *ca != "" {
		pem, err := os.ReadFile(*ca)
		check(err)
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(pem)
		config.RootCAs, config.ClientCAs = pool, pool
		if server {
			config.ClientAuth = dtls.RequireAndVerifyClientCert
		}
	}
	if *cert != "" {
		pair, err := tls.LoadX509KeyPair(*cert, *key)
		check(err)
		config.Certificates = []tls.Certificate{pair}
	}
	if *pskIdentity != "" {
		psk, err := hex.DecodeString(*pskKey)
		check(err)
		config.CipherSuites = []dtls.CipherSuiteID{
			dtls.TLS_PSK_WITH_AES_128_GCM_SHA256, dtls.TLS_PSK_WITH_AES_128_CCM, dtls.TLS_PSK_WITH_AES_128_CCM_8,
		}
		config.PSK = func(identity []byte) ([]byte, error) {
			if server && string(identity) != *pskIdentity {
				return nil, fmt.Errorf("unknown identity %q", identity)
			}
			return psk, nil
		}
		if !server {
			config.PSKIdentityHint = []byte(*pskIdentity)
		}
	}
	if *ciphers != "" {
		config.CipherSuites = []dtls.CipherSuiteID{suite(*ciphers)}
	}
	if *alpn != "" {
		config.SupportedProtocols = []string{*alpn}
	}
	return config
}

func established(conn *dtls.Conn, server bool, before []byte) []byte {
	state := conn.ConnectionState()
	peer := ""
	if len(state.PeerCertificates) > 0 {
		certificate, err := x509.ParseCertificate(state.PeerCertificates[0])
		check(err)
		peer = certificate.Subject.CommonName
	}
	resumed := "?" // of a server's session, pion does not tell
	if len(before) > 0 && string(before) == string(state.SessionID) {
		resumed = "1"
	} else if !server {
		resumed = "0"
	}
	// pion does not tell the version (there is one only) and the suite, and forgets the protocol when it copies the state.
	fmt.Printf("ESTABLISHED DTLSv1.2 suite=? peer=%s alpn=? resumed=%s\n", peer, resumed)
	return state.SessionID
}

// talk carries messages between the standard streams and the association until one side closes.
func talk(conn *dtls.Conn, lines <-chan string) {
	ended := make(chan error)
	go func() {
		buffer := make([]byte, 16384)
		for {
			n, err := conn.Read(buffer)
			if err != nil {
				ended <- err
				return
			}
			os.Stdout.Write(buffer[:n])
		}
	}()
	for {
		select {
		case line, more := <-lines:
			if !more {
				conn.Close()
				os.Exit(0)
			}
			if _, err := conn.Write([]byte(line)); err != nil {
				fmt.Println("FAILED to send:", err)
			}
		case err := <-ended:
			if errors.Is(err, io.EOF) {
				fmt.Println("CLOSED")
			} else {
				fmt.Println("FAILED to receive:", err)
			}
			conn.Close()
			return
		}
	}
}

func readLines() <-chan string {
	lines := make(chan string)
	go func() {
		for input := bufio.NewReader(os.Stdin); ; {
			line, err := input.ReadString('\n')
			if err != nil {
				close(lines)
				return
			}
			lines <- line
		}
	}()
	return lines
}

func serve(address *net.UDPAddr) {
	listener, err := dtls.Listen("udp", address, configure(true))
	check(err)
	fmt.Println("LISTENING", listener.Addr().(*net.UDPAddr).Port)
	for lines := readLines(); ; {
		conn, err := listener.Accept()
		if err != nil {
			fmt.Println("FAILED", err)
			continue
		}
		established(conn.(*dtls.Conn), true, nil)
		talk(conn.(*dtls.Conn), lines)
	}
}

func visit(address *net.UDPAddr) {
	config := configure(false)
	var session []byte
	connect := func() *dtls.Conn {
		conn, err := dtls.Dial("udp", address, config)
		if err != nil {
			fmt.Println("FAILED", err)
			os.Exit(1)
		}
		session = established(conn, false, session)
		return conn
	}
	conn := connect()
	if *resume {
		conn.Close()
		conn = connect()
	}
	talk(conn, readLines())
}

func main() {
	if len(os.Args) < 2 || (os.Args[1] != "client" && os.Args[1] != "server") {
		check(fmt.Errorf("usage: %s client|server [options]", os.Args[0]))
	}
	check(flag.CommandLine.Parse(os.Args[2:]))
	address := &net.UDPAddr{IP: net.ParseIP(*host), Port: *port}
	if os.Args[1] == "server" {
		serve(address)
	} else {
		visit(address)
	}
}
