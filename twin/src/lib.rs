//! Offline stand-ins for Dataverse, Nylas and Entra, each on a loopback socket of its own.
//!
//! They are as strict as the public documentation of the services: whatever is refused there is refused here, with
//! the documented status and code. What the documents leave open is decided the cautious way and marked *inferred*
//! beside the code. The rules come from the project's fact files; comments cite them as "Dataverse facts §n" and
//! "Nylas facts §n".
//!
//! The three share nothing but tokens: Dataverse accepts what Entra issued for it.

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

/// All three services. They stop answering when this value is dropped.
pub struct Twin {
    dataverse: Dataverse,
    nylas: Nylas,
    entra: Entra,
    clock: Clock,
    _servers: [Server; 3],
}

impl Twin {
    /// Starts the services on free ports of 127.0.0.1, on the current runtime.
    ///
    /// # Errors
    /// When a port could not be opened, or the tables that come with the crate could not be read.
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

    /// The Dataverse organisation.
    #[must_use]
    pub fn dataverse(&self) -> &Dataverse {
        &self.dataverse
    }

    /// The Nylas application.
    #[must_use]
    pub fn nylas(&self) -> &Nylas {
        &self.nylas
    }

    /// The time of all three, which can be stopped and moved.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The Entra tenant.
    #[must_use]
    pub fn entra(&self) -> &Entra {
        &self.entra
    }
}
