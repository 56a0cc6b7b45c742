//! The settings as a page of the documents, from the same declarations as the flags.

use std::fmt::Write;

use clap::Command;

/// A table of every setting of `command`: flag, variable, default, what it does.
pub fn reference(command: &Command) -> String {
    let mut page = "# Settings\n\nPrinted by `inference-gateway config --markdown`. A flag comes before its variable, that before the \
                    settings file\n(`INFERENCE_CONFIG_FILE`, flags without dashes as keys), and that before the default.\n\n| flag | \
                    variable | default | what it does |\n| --- | --- | --- | --- |\n"
        .to_owned();
    let settings = command.get_arguments().filter(|argument| !argument.is_hide_set());
    for argument in settings {
        let (Some(flag), Some(variable)) = (argument.get_long(), argument.get_env()) else {
            continue;
        };
        let defaults: Vec<_> = argument
            .get_default_values()
            .iter()
            .map(|value| format!("`{}`", value.to_string_lossy()))
            .collect();
        let help =
            argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
        let (variable, defaults) = (variable.to_string_lossy(), defaults.join(", "));
        // Writing to a text cannot fail.
        writeln!(page, "| `--{flag}` | `{variable}` | {defaults} | {help} |").unwrap_or_default();
    }
    page
}
