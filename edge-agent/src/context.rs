//! What the commands share: the data directory, the settings and the clock.

use std::path::{Path, PathBuf};

use protocol::clock::Clock;

use crate::config::{self, Settings};
use crate::data_directory::DataDirectory;
use crate::failure::Failure;
use crate::registration::Registration;
use crate::store::{self, Store};

/// What a command works with.
pub(crate) struct Context {
    pub(crate) directory: DataDirectory,
    /// The file of settings, if there is one.
    pub(crate) file: Option<PathBuf>,
    /// The same, if it was found in the working directory, and it alone names the relay.
    pub(crate) project: Option<PathBuf>,
    /// Its settings, and the variables over them. Where neither has a name, it is the registered one.
    pub(crate) settings: Settings,
    pub(crate) json: bool,
    pub(crate) clock: Clock,
}

impl Context {
    /// Reads the file of settings and the variables. `file` and `data` are the paths from the general options.
    pub(crate) fn read(
        file: Option<&Path>,
        data: Option<&Path>,
        json: bool,
    ) -> Result<Self, Failure> {
        let is_named = file.is_some();
        let file = config::find(file);
        let variables = config::environment()?;
        let mut project = None;
        let mut settings = match &file {
            Some(file) => {
                if !is_named && file == Path::new(config::FILE) && variables.relay.is_none() {
                    project = std::path::absolute(file).ok();
                }
                variables.over(config::read(file)?)
            }
            None => variables,
        };
        settings.project_has_data = data.is_none() && project.is_some() && settings.data.is_some();
        let data = data.or(settings.data.as_deref());
        let directory = DataDirectory::new(data)?;
        if settings.name.is_none() {
            // A machine whose name changes, as that of a laptop does in another network, stays the worker that it was: another
            // one would leave behind what waits for it.
            let registered = Registration::read(&directory.registration()).ok().flatten();
            settings.name = registered.map(|registration| registration.name);
        }
        Ok(Self {
            directory,
            file,
            project,
            settings,
            json,
            clock: Clock::system(),
        })
    }

    /// The events, if any were ever stored.
    pub(crate) fn store(&self) -> Result<Store, Failure> {
        let path = self.directory.events();
        if !path.exists() {
            return Err(Failure::Unhealthy(format!(
                "there are no events in `{}`: `edge-agent up` receives them",
                self.directory.directory().display()
            )));
        }
        Ok(Store::open_to_read(&path)?)
    }

    /// The events, to change them.
    pub(crate) fn store_to_write(&self) -> Result<Store, Failure> {
        self.store()?;
        let path = self.directory.events();
        if !self.directory.is_in_use() {
            store::report_damaged_log(&path, self.clock.millis());
        }
        Ok(Store::open_existing(&path)?)
    }

    pub(crate) fn registration(&self) -> Result<Registration, Failure> {
        Registration::read(&self.directory.registration())?.ok_or_else(|| {
            Failure::Unhealthy(format!(
                "there is no registration in `{}`: `edge-agent up` registers",
                self.directory.directory().display()
            ))
        })
    }
}
