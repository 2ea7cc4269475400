//! Engines with a bug, served by this executable: the histories must find it.

use std::env;
use std::io;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use coffre::config::{Arguments, Config, EngineKind};
use coffre::engine::etcd::{Breakage, EtcdEngine, EtcdTxn, Watched};
use coffre::engine::{Admin, Engine, Figure, PanicAt, Scope, Status, TxnError, VerifyError};
use coffre::journal::{CommitCallback, CommitPoint, WriteRefused};
use coffre::server::Stop;
use coffre::util::logging;
use coffre::{Error, Hosted};

use super::net::Host;

/// The variable that names the bug.
const BREAKAGE: &str = "COFFRE_TEST_BREAKAGE";

const NOTHING_COMPARED: &str = "nothing compared";
const SERIALIZABLE_READS: &str = "serializable reads";
const DONE_TWICE: &str = "done twice";

/// A coffre that compares nothing of what it read before it writes.
pub fn comparing_nothing(host: &Host) -> Command {
    server(host, NOTHING_COMPARED)
}

/// A coffre whose reads do not go through a majority.
pub fn reading_from_any_member(host: &Host) -> Command {
    server(host, SERIALIZABLE_READS)
}

/// A coffre that does again what may have been done.
pub fn doing_twice(host: &Host) -> Command {
    server(host, DONE_TWICE)
}

fn server(host: &Host, breakage: &str) -> Command {
    let mut command = host.command(env::current_exe().unwrap().to_str().unwrap());
    command.args(["--ignored", "--exact", "--nocapture", "etcd::broken::serve", "--"]);
    command.env(BREAKAGE, breakage);
    command
}

/// The server, in place of the program.
#[test]
#[ignore = "other tests start it, as a server"]
fn serve() {
    // All tests that are ignored were asked for.
    if env::var_os(BREAKAGE).is_none() {
        return;
    }
    let flags = env::args_os().skip_while(|word| word != "--");
    let Arguments { config, .. } = Arguments::parse_from(flags);
    logging::begin("info").unwrap();
    let result = coffre::run_on::<Broken>(config);
    logging::flush();
    std::process::exit(result.err().map_or(0, |error| error.exit_code().into()));
}

/// The engine, with a bug.
struct Broken(Arc<EtcdEngine>);

impl Engine for Broken {
    type Txn<'e> = EtcdTxn<'e>;
    type Watched = Watched;
    type Session = ();

    const KEEPS_FILE: bool = false;
    const LIKES_FEW_TRANSACTIONS: bool = true;

    fn run<T, E: From<TxnError>>(
        &self,
        session: &mut (),
        scope: Scope<'_>,
        body: impl FnMut(&mut EtcdTxn<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.0.run(session, scope, body)
    }

    fn take_commit_point(&self, session: &mut ()) -> CommitPoint {
        self.0.take_commit_point(session)
    }

    fn is_committed(&self, point: CommitPoint) -> bool {
        self.0.is_committed(point)
    }

    fn is_commit_due(&self, session: &()) -> bool {
        self.0.is_commit_due(session)
    }

    fn commit(&self, session: &mut (), point: CommitPoint) -> Result<(), WriteRefused> {
        self.0.commit(session, point)
    }

    fn on_commit(
        &self,
        session: &mut (),
        point: CommitPoint,
        callback: &Arc<dyn CommitCallback>,
        may_gather: bool,
    ) -> bool {
        self.0.on_commit(session, point, callback, may_gather)
    }
}

impl Admin for Broken {
    fn databases(&self) -> usize {
        self.0.databases()
    }

    fn check_writes(&self) -> Result<(), WriteRefused> {
        self.0.check_writes()
    }

    fn status(&self) -> Status {
        self.0.status()
    }

    fn committed_keys(&self) -> usize {
        self.0.committed_keys()
    }

    fn save(&self) -> Result<(), WriteRefused> {
        self.0.save()
    }

    fn request_compaction(&self) -> bool {
        self.0.request_compaction()
    }

    fn schedule_compaction(&self) {
        self.0.schedule_compaction();
    }

    fn set_active_expiry(&self, is_active: bool) {
        self.0.set_active_expiry(is_active);
    }

    fn reset_expired(&self) {
        self.0.reset_expired();
    }

    fn verify(&self) -> Result<(), VerifyError> {
        self.0.verify()
    }

    fn panic_at(&self, place: PanicAt) -> ! {
        self.0.panic_at(place)
    }

    fn assert_sound(&self) {
        self.0.assert_sound();
    }

    fn figures(&self) -> Vec<Figure> {
        self.0.figures()
    }
}

impl Hosted for Broken {
    type Opened = Self;

    fn open(config: &Config) -> Result<Self, Error> {
        let EngineKind::Etcd(members) = &config.engine else { panic!("{config:?}") };
        let mut options = config.etcd.options(members, config.databases.into())?;
        options.breakage = Some(match env::var(BREAKAGE).unwrap().as_str() {
            NOTHING_COMPARED => Breakage::NothingCompared,
            SERIALIZABLE_READS => Breakage::SerializableReads,
            DONE_TWICE => Breakage::DoneTwice,
            other => panic!("what is {other}?"),
        });
        Ok(Self(Arc::new(EtcdEngine::open(options)?)))
    }

    fn start(opened: Self, _config: &mut Config) -> Result<Self, Error> {
        Ok(opened)
    }

    fn start_tasks(self: &Arc<Self>) -> io::Result<()> {
        self.0.start_threads()
    }

    fn close(self: &Arc<Self>, _how: Stop, _asked: Instant) -> Result<(), Error> {
        EtcdEngine::close(&self.0);
        Ok(())
    }

    fn describe(&self, _config: &Config) -> String {
        self.0.name()
    }
}
