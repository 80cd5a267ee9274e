// A DTLS client and server on JSSE, the TLS of the JDK. See peer.h for how it is used and what it prints.

import java.io.FileInputStream;
import java.io.IOException;
import java.net.DatagramPacket;
import java.net.DatagramSocket;
import java.net.InetSocketAddress;
import java.net.PortUnreachableException;
import java.net.SocketAddress;
import java.net.SocketTimeoutException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Arrays;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SNIHostName;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLEngine;
import javax.net.ssl.SSLEngineResult;
import javax.net.ssl.SSLEngineResult.HandshakeStatus;
import javax.net.ssl.SSLException;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLPeerUnverifiedException;
import javax.net.ssl.SSLSession;
import javax.net.ssl.TrustManagerFactory;

final class Jsse {
    private static final int TICK = 1000; // milliseconds after which a flight is repeated
    private static final int LARGEST = 65_536;
    private static final char[] NO_PASSWORD = new char[0];

    private static boolean server;
    private static Map<String, String> options;
    private static DatagramSocket socket;
    private static SSLContext context;
    private static volatile SSLEngine engine;

    public static void main(String[] arguments) throws Exception {
        server = arguments.length > 0 && arguments[0].equals("server");
        options = parse(arguments);
        if (options.containsKey("psk-identity")) {
            throw new IllegalArgumentException("JSSE has no PSK suites");
        }
        context = makeContext();
        if (server) {
            serve();
        } else {
            visit();
        }
    }

    private static Map<String, String> parse(String[] arguments) {
        Map<String, String> found = new HashMap<>(Map.of("host", "127.0.0.1", "port", "0"));
        for (int i = 1; i < arguments.length; i++) {
            String name = arguments[i].substring(2);
            found.put(name, name.equals("resume") ? "" : arguments[++i]);
        }
        return found;
    }

    // --- settings -------------------------------------------------------------------------------------------------

    private static Certificate[] certificates(String path) throws Exception {
        try (FileInputStream file = new FileInputStream(path)) {
            return CertificateFactory.getInstance("X.509").generateCertificates(file).toArray(new Certificate[0]);
        }
    }

    private static PrivateKey key(String path, String algorithm) throws Exception {
        String base64 = Files.readString(Path.of(path)).replaceAll("-----[A-Z ]+-----|\\s", "");
        return KeyFactory.getInstance(algorithm)
                .generatePrivate(new PKCS8EncodedKeySpec(Base64.getDecoder().decode(base64)));
    }

    private static SSLContext makeContext() throws Exception {
        KeyManagerFactory keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        KeyStore own = KeyStore.getInstance("PKCS12");
        own.load(null, null);
        if (options.containsKey("cert")) {
            Certificate[] chain = certificates(options.get("cert"));
            PrivateKey key = key(options.get("key"), chain[0].getPublicKey().getAlgorithm());
            own.setKeyEntry("own", key, NO_PASSWORD, chain);
        }
        keys.init(own, NO_PASSWORD);

        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        KeyStore trusted = KeyStore.getInstance("PKCS12");
        trusted.load(null, null);
        if (options.containsKey("ca")) {
            trusted.setCertificateEntry("ca", certificates(options.get("ca"))[0]);
        }
        trust.init(trusted);

        SSLContext result = SSLContext.getInstance("DTLSv1.2");
        result.init(keys.getKeyManagers(), trust.getTrustManagers(), null);
        return result;
    }

    private static SSLEngine makeEngine() {
        SSLEngine result = context.createSSLEngine(options.get("name"), Integer.parseInt(options.get("port")));
        result.setUseClientMode(!server);
        SSLParameters parameters = result.getSSLParameters();
        if (server) {
            parameters.setNeedClientAuth(options.containsKey("ca"));
        } else if (options.containsKey("name")) {
            parameters.setServerNames(List.of(new SNIHostName(options.get("name"))));
            parameters.setEndpointIdentificationAlgorithm("HTTPS");
        }
        if (options.containsKey("mtu")) {
            parameters.setMaximumPacketSize(Integer.parseInt(options.get("mtu")));
        }
        if (options.containsKey("ciphers")) {
            parameters.setCipherSuites(new String[] {options.get("ciphers")});
        }
        if (options.containsKey("alpn")) {
            parameters.setApplicationProtocols(new String[] {options.get("alpn")});
        }
        result.setSSLParameters(parameters);
        return result;
    }

    // --- datagrams ------------------------------------------------------------------------------------------------

    /** The next datagram; null if none comes in time. */
    private static DatagramPacket receive(int milliseconds) throws IOException {
        DatagramPacket packet = new DatagramPacket(new byte[LARGEST], LARGEST);
        socket.setSoTimeout(milliseconds);
        try {
            socket.receive(packet);
            return packet;
        } catch (SocketTimeoutException | PortUnreachableException nothing) {
            return null;
        }
    }

    /** Send what the engine makes of {@code message}: one datagram. */
    private static synchronized SSLEngineResult wrap(byte[] message) throws IOException {
        ByteBuffer datagram = ByteBuffer.allocate(LARGEST);
        SSLEngineResult result = engine.wrap(ByteBuffer.wrap(message), datagram);
        if (datagram.position() > 0) {
            try {
                socket.send(new DatagramPacket(datagram.array(), datagram.position(), socket.getRemoteSocketAddress()));
            } catch (PortUnreachableException nobody) {
                // as if it were lost
            }
        }
        return result;
    }

    /** Hand a datagram to the engine, and print the messages that it holds. */
    private static void unwrap(ByteBuffer datagram) throws IOException {
        ByteBuffer message = ByteBuffer.allocate(LARGEST);
        do {
            SSLEngineResult result = engine.unwrap(datagram, message.clear());
            System.out.write(message.array(), 0, message.position());
            System.out.flush();
            goOn();
            if (result.bytesConsumed() == 0) {
                return;
            }
        } while (datagram.hasRemaining() && !engine.isInboundDone());
    }

    /** Let the engine do what it wants to do before it needs another datagram. */
    private static void goOn() throws IOException {
        while (true) {
            switch (engine.getHandshakeStatus()) {
                case NEED_TASK -> engine.getDelegatedTask().run();
                case NEED_WRAP -> {
                    if (wrap(new byte[0]).getStatus() == SSLEngineResult.Status.CLOSED) {
                        return;
                    }
                }
                case NEED_UNWRAP_AGAIN -> engine.unwrap(ByteBuffer.allocate(0), ByteBuffer.allocate(LARGEST));
                default -> {
                    return;
                }
            }
        }
    }

    // --- associations ---------------------------------------------------------------------------------------------

    private static boolean shaking() {
        HandshakeStatus status = engine.getHandshakeStatus();
        return status != HandshakeStatus.NOT_HANDSHAKING && status != HandshakeStatus.FINISHED;
    }

    /** Complete the handshake. {@code before} is the session that may be resumed; null if there is none. */
    private static boolean shakeHands(DatagramPacket first, SSLSession before) throws IOException {
        try {
            engine.beginHandshake();
            goOn();
            if (first != null) {
                unwrap(ByteBuffer.wrap(first.getData(), 0, first.getLength()));
            }
            while (shaking()) {
                DatagramPacket packet = receive(TICK);
                if (packet == null) {
                    wrap(new byte[0]); // the first datagram of the flight once more
                    goOn(); // the others
                } else {
                    unwrap(ByteBuffer.wrap(packet.getData(), 0, packet.getLength()));
                }
                if (engine.isInboundDone() || engine.isOutboundDone()) {
                    throw new SSLException("closed during the handshake");
                }
            }
        } catch (SSLException error) {
            goOn(); // the alert
            System.out.println("FAILED " + error.getMessage());
            return false;
        }
        SSLSession session = engine.getSession();
        boolean same = before != null && before.getCreationTime() == session.getCreationTime();
        String resumed = server ? "?" : same ? "1" : "0"; // of a server's session, JSSE does not tell
        String alpn = engine.getApplicationProtocol();
        System.out.printf("ESTABLISHED %s suite=%s peer=%s alpn=%s resumed=%s%n", session.getProtocol(),
                session.getCipherSuite(), peer(session), alpn == null ? "" : alpn, resumed);
        return true;
    }

    private static String peer(SSLSession session) {
        try {
            return ((X509Certificate) session.getPeerCertificates()[0]).getSubjectX500Principal().getName();
        } catch (SSLPeerUnverifiedException none) {
            return "";
        }
    }

    private static void sayGoodbye() throws IOException {
        engine.closeOutbound();
        goOn();
    }

    /** Print what comes until the peer closes. */
    private static void listen() throws IOException {
        try {
            while (!engine.isInboundDone()) {
                DatagramPacket packet = receive(0);
                if (packet != null) {
                    unwrap(ByteBuffer.wrap(packet.getData(), 0, packet.getLength()));
                }
            }
            System.out.println("CLOSED");
            sayGoodbye();
        } catch (SSLException error) {
            System.out.println("FAILED to receive: " + error.getMessage());
        }
    }

    /** Send each line of the standard input; close and end with it. */
    private static void speak() {
        byte[] line = new byte[4096];
        try {
            for (int length; (length = System.in.read(line)) > 0;) {
                wrap(Arrays.copyOf(line, length));
            }
            sayGoodbye();
        } catch (IOException error) {
            System.out.println("FAILED to send: " + error.getMessage());
        }
        System.exit(0);
    }

    private static void startSpeaking() {
        Thread thread = new Thread(Jsse::speak);
        thread.setDaemon(true);
        thread.start();
    }

    private static void serve() throws IOException {
        socket = new DatagramSocket(new InetSocketAddress(options.get("host"), Integer.parseInt(options.get("port"))));
        System.out.println("LISTENING " + socket.getLocalPort());
        for (boolean speaking = false;;) {
            DatagramPacket first = receive(0);
            if (first == null) {
                continue;
            }
            SocketAddress client = first.getSocketAddress();
            socket.connect(client);
            engine = makeEngine();
            if (shakeHands(first, null)) {
                if (!speaking) {
                    startSpeaking();
                    speaking = true;
                }
                listen();
            }
            socket.disconnect();
        }
    }

    private static boolean connect(SSLSession before) throws IOException {
        socket = new DatagramSocket();
        socket.connect(new InetSocketAddress(options.get("host"), Integer.parseInt(options.get("port"))));
        engine = makeEngine();
        return shakeHands(null, before);
    }

    private static void visit() throws IOException {
        boolean connected = connect(null);
        if (connected && options.containsKey("resume")) {
            SSLSession session = engine.getSession();
            sayGoodbye();
            socket.close();
            connected = connect(session);
        }
        if (!connected) {
            System.exit(1);
        }
        startSpeaking();
        listen();
    }
}
