//! The part of the published `tonic-prost-build` that `etcd-client`'s build script calls, without `protoc`.
//!
//! `protox` parses the schemas, `prost-build` makes the messages and `tonic-build` the clients; what is ours is only the
//! glue between the last two: how a service of the one looks to the other. Types of `google.protobuf` as request or
//! response are not handled, because no service of etcd has any.

use std::io;
use std::path::Path;

use proc_macro2::TokenStream;
use quote::ToTokens;

/// What is to be generated; see [`configure`].
#[derive(Debug)]
pub struct Builder {
    build_server: bool,
}

/// Starts from the published crate's defaults: client and server code.
pub fn configure() -> Builder {
    Builder { build_server: true }
}

impl Builder {
    /// Whether server traits are generated beside the clients.
    pub fn build_server(mut self, enable: bool) -> Self {
        self.build_server = enable;
        self
    }

    /// Compiles `protos` (found through `includes`) into `OUT_DIR`, one Rust file per package.
    pub fn compile_protos(
        self,
        protos: &[impl AsRef<Path>],
        includes: &[impl AsRef<Path>],
    ) -> io::Result<()> {
        let files = protox::compile(protos, includes).map_err(io::Error::other)?;
        prost_build::Config::new()
            .service_generator(Box::new(Generator { build_server: self.build_server }))
            .compile_fds(files)
    }
}

/// Generates for each service what `tonic-build` makes of it.
struct Generator {
    build_server: bool,
}

impl prost_build::ServiceGenerator for Generator {
    fn generate(&mut self, service: prost_build::Service, buf: &mut String) {
        let service = Service::new(service);
        let mut builder = tonic_build::CodeGenBuilder::new();
        builder.emit_package(true).build_transport(true);
        let mut tokens = builder.generate_client(&service, "super");
        if self.build_server {
            tokens.extend(builder.generate_server(&service, "super"));
        }
        let file = syn::parse2(tokens).expect("tonic-build generates Rust");
        buf.push_str(&prettyplease::unparse(&file));
    }
}

/// A service as `tonic-build` wants to see it.
struct Service {
    inner: prost_build::Service,
    methods: Vec<Method>,
}

impl Service {
    fn new(inner: prost_build::Service) -> Self {
        Self { methods: inner.methods.iter().cloned().map(Method).collect(), inner }
    }
}

impl tonic_build::Service for Service {
    type Comment = String;
    type Method = Method;

    fn name(&self) -> &str {
        &self.inner.name
    }

    fn package(&self) -> &str {
        &self.inner.package
    }

    fn identifier(&self) -> &str {
        &self.inner.proto_name
    }

    fn methods(&self) -> &[Method] {
        &self.methods
    }

    fn comment(&self) -> &[String] {
        &self.inner.comments.leading
    }
}

/// A method as `tonic-build` wants to see it.
struct Method(prost_build::Method);

impl tonic_build::Method for Method {
    type Comment = String;

    fn name(&self) -> &str {
        &self.0.name
    }

    fn identifier(&self) -> &str {
        &self.0.proto_name
    }

    fn codec_path(&self) -> &str {
        "tonic_prost::ProstCodec"
    }

    fn client_streaming(&self) -> bool {
        self.0.client_streaming
    }

    fn server_streaming(&self) -> bool {
        self.0.server_streaming
    }

    fn comment(&self) -> &[String] {
        &self.0.comments.leading
    }

    fn request_response_name(
        &self,
        proto_path: &str,
        _compile_well_known_types: bool,
    ) -> (TokenStream, TokenStream) {
        (rust_path(proto_path, &self.0.input_type), rust_path(proto_path, &self.0.output_type))
    }

    fn deprecated(&self) -> bool {
        self.0.options.deprecated.unwrap_or(false)
    }
}

/// Where prost-build put the message `name`, seen from the module of a service's client.
fn rust_path(proto_path: &str, name: &str) -> TokenStream {
    syn::parse_str::<syn::Path>(&format!("{proto_path}::{name}"))
        .expect("prost-build names messages by Rust paths")
        .to_token_stream()
}
