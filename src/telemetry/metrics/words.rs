//! The words that label what is counted: small sets, known beforehand, so that no metric grows with what
//! clients say.

/// Which way a request took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// CONNECT: a tunnel.
    Connect,
    /// Absolute-form, forwarded.
    Forward,
    /// By the path of an API, `/api/NAME/...`.
    Gateway,
    /// Answered by narrows itself: `/health`, origin-form, bad requests.
    Own,
}

impl Route {
    pub(super) const ALL: [Self; 4] = [Self::Connect, Self::Forward, Self::Gateway, Self::Own];

    /// The word for metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Forward => "forward",
            Self::Gateway => "gateway",
            Self::Own => "own",
        }
    }
}

/// How an attempt to reach an upstream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DialResult {
    /// The client left first.
    Cancelled,
    /// The name could not be resolved.
    DnsError,
    /// The resolver did not answer in time.
    DnsTimeout,
    /// A connection.
    Ok,
    /// None of the addresses may be dialled.
    Prohibited,
    /// The upstream refused.
    Refused,
    /// The upstream did not answer in time.
    Timeout,
    /// TLS with the upstream failed.
    Tls,
    /// There is no way to the address.
    Unreachable,
}

impl DialResult {
    pub(super) const ALL: [Self; 9] = [
        Self::Cancelled,
        Self::DnsError,
        Self::DnsTimeout,
        Self::Ok,
        Self::Prohibited,
        Self::Refused,
        Self::Timeout,
        Self::Tls,
        Self::Unreachable,
    ];

    /// The word for metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::DnsError => "dns_error",
            Self::DnsTimeout => "dns_timeout",
            Self::Ok => "ok",
            Self::Prohibited => "prohibited",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Unreachable => "unreachable",
        }
    }
}

/// What idled, and was closed for somebody who waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Yielded {
    /// A connection kept for the next request.
    Pooled,
    /// A tunnel.
    Tunnel,
}

impl Yielded {
    pub(super) const ALL: [Self; 2] = [Self::Pooled, Self::Tunnel];

    /// The word for metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Pooled => "pooled",
            Self::Tunnel => "tunnel",
        }
    }
}

/// What kept a destination from being gone to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Barred {
    /// The ports to which there may be tunnels.
    ConnectPort,
    /// No rule allows it, and what no rule allows is denied.
    Default,
    /// A rule that denies.
    DenyRule,
    /// It is this machine, its link, or a cloud's word to its machines.
    Local,
    /// It is this proxy.
    Loop,
    /// It is not globally reachable.
    NotPublic,
}

impl Barred {
    pub(super) const ALL: [Self; 6] = [
        Self::ConnectPort,
        Self::Default,
        Self::DenyRule,
        Self::Local,
        Self::Loop,
        Self::NotPublic,
    ];

    /// The word for metrics and the log.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::ConnectPort => "connect_port",
            Self::Default => "default",
            Self::DenyRule => "deny",
            Self::Local => "local",
            Self::Loop => "loop",
            Self::NotPublic => "not_public",
        }
    }
}

/// The bounds on what a client or an upstream may do, each with its word for metrics.
macro_rules! bounds {
    ($($(#[$doc:meta])* $name:ident = $word:literal;)*) => {
        /// A bound on what a client or an upstream may do, and that one of them met.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Bound { $($(#[$doc])* $name,)* }

        impl Bound {
            pub(super) const ALL: &[Self] = &[$(Self::$name),*];

            /// The word for metrics.
            pub(crate) fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

bounds! {
    /// Passwords that wait to be verified.
    AuthQueue = "auth_queue";
    /// The silence within a body, be it the upstream that sends nothing or the client that takes
    /// nothing.
    BodyIdle = "body_idle";
    /// The chunk extensions in a request's body.
    ChunkExtensions = "chunk_extensions";
    /// Connections of clients in all.
    Clients = "clients";
    /// Connections of clients from one address.
    ClientsPerAddress = "clients_per_address";
    /// The time that connecting took.
    ConnectTime = "connect_time";
    /// The number of addresses of a name.
    DnsAddresses = "dns_addresses";
    /// The time that a look-up took.
    DnsTime = "dns_time";
    /// The number of fields in a request's head.
    Fields = "fields";
    /// The time that TLS with a client took, and the header of the PROXY protocol before it.
    HandshakeTime = "handshake_time";
    /// The size of a request's head.
    HeadSize = "head_size";
    /// The time that a request's head took.
    HeadTime = "head_time";
    /// What a client may do to streams of HTTP/2, resets most of all.
    Http2Calm = "http2_calm";
    /// The interim responses (1xx) to one request.
    Interim = "interim";
    /// Open files.
    OpenFiles = "open_files";
    /// The length of a request line.
    RequestLine = "request_line";
    /// The chunk extensions in a response's body.
    ResponseExtensions = "response_chunk_extensions";
    /// The number of fields in a response's head.
    ResponseFields = "response_fields";
    /// The size of a response's head.
    ResponseHead = "response_head";
    /// The time that a response's head took.
    ResponseTime = "response_time";
    /// The size of a response's trailer section.
    ResponseTrailers = "response_trailers";
    /// The time that a TLS handshake with an upstream took.
    TlsTime = "tls_time";
    /// The size of a request's trailer section.
    Trailers = "trailers";
    /// The silence within a tunnel.
    TunnelIdle = "tunnel_idle";
}
