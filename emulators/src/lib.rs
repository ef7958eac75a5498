//! Offline emulators of Dataverse, Nylas and Entra, each on its own loopback socket.
//!
//! They are as strict as the public documentation of the services: what a service rejects, its
//! emulator rejects with the documented status and code. Where the documentation leaves a question
//! open, the emulator takes the cautious reading, and the code is marked *inferred*. The rules come
//! from the project's fact files; comments cite them as "Dataverse facts §n" and "Nylas facts §n".
//!
//! The three emulators share only tokens and the clock: Dataverse accepts the tokens that Entra
//! issued for it.

mod clock;
mod dataverse;
mod entra;
mod fault;
mod lock;
mod nylas;
mod server;

use std::io;

pub use clock::Clock;
pub use dataverse::{Dataverse, Dropped, Privilege, RefusedEmails, Requests, SeedError, Setting};
pub use entra::Entra;
pub use fault::{Fault, FaultPlan, Injected};
pub use nylas::{Delivery, Grant, Nylas};

use server::{Server, Socket};

/// The three emulators. They stop answering when this value is dropped.
pub struct Emulators {
    dataverse: Dataverse,
    nylas: Nylas,
    entra: Entra,
    clock: Clock,
    _servers: [Server; 3],
}

impl Emulators {
    /// Starts the emulators on free ports of 127.0.0.1, on the current runtime.
    ///
    /// # Errors
    /// An I/O error if a port cannot be opened, or if the tables built into the crate cannot be
    /// read.
    pub async fn start() -> io::Result<Self> {
        let (for_dataverse, for_nylas, for_entra) = (
            Socket::bind().await?,
            Socket::bind().await?,
            Socket::bind().await?,
        );
        let clock = Clock::default();
        let entra = Entra::new(for_entra.url(), &for_dataverse.url(), clock.clone());
        let dataverse = Dataverse::new(for_dataverse.url(), entra.clone(), clock.clone())?;
        let nylas = Nylas::new(for_nylas.url(), clock.clone());
        let servers = [
            for_dataverse.serve(dataverse.clone()),
            for_nylas.serve(nylas.clone()),
            for_entra.serve(entra.clone()),
        ];
        Ok(Self {
            dataverse,
            nylas,
            entra,
            clock,
            _servers: servers,
        })
    }

    /// Returns the Dataverse organisation.
    #[must_use]
    pub fn dataverse(&self) -> &Dataverse {
        &self.dataverse
    }

    /// Returns the Nylas application.
    #[must_use]
    pub fn nylas(&self) -> &Nylas {
        &self.nylas
    }

    /// Returns the clock that the three emulators share. It can be stopped and moved.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Returns the Entra tenant.
    #[must_use]
    pub fn entra(&self) -> &Entra {
        &self.entra
    }
}
