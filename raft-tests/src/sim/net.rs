//! turmoil's network behind the server's seam.

use std::io;

use futures::FutureExt;
use futures::future::BoxFuture;
use ringraft::transport::dial::{BoxedIo, Listener, Net};

/// The network of whatever simulated host uses it.
pub struct SimNet;

impl Net for SimNet {
    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<BoxedIo>> {
        async move {
            let stream = turmoil::net::TcpStream::connect(address).await?;
            Ok(Box::new(stream) as BoxedIo)
        }
        .boxed()
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        async move {
            let listener = turmoil::net::TcpListener::bind(address).await?;
            Ok(Box::new(SimListener(listener)) as Box<dyn Listener>)
        }
        .boxed()
    }
}

struct SimListener(turmoil::net::TcpListener);

impl Listener for SimListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxedIo, String)>> {
        async move {
            let (stream, remote) = self.0.accept().await?;
            Ok((Box::new(stream) as BoxedIo, remote.to_string()))
        }
        .boxed()
    }

    fn local_address(&self) -> io::Result<String> {
        self.0.local_addr().map(|address| address.to_string())
    }
}
