//! Settings that are lists of templates.

use std::str::FromStr;

use crate::model::spec::NamedTemplate;

/// Prompt templates, as in a list of models.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamedTemplates(pub Vec<NamedTemplate>);

impl FromStr for NamedTemplates {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        serde_path_to_error::deserialize(serde_yaml::Deserializer::from_str(text)).map(Self).map_err(|error| {
            format!("{error}; write a list as [{{\"name\": \"summarise\", \"template\": \"… {{{{ document }}}} …\"}}]")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_yaml_or_json_and_nothing_else() {
        let json: NamedTemplates = r#"[{"name": "a", "template": "x\n{{ y }}"}]"#.parse().unwrap();
        assert_eq!(json, "- name: a\n  template: |-\n    x\n    {{ y }}\n".parse().unwrap());
        assert_eq!(json.0[0].template, "x\n{{ y }}");
        for (text, told) in [
            ("a", "invalid type"),
            (r#"[{"name": "a"}]"#, "missing field `template`"),
            (r#"[{"name": "a", "template": "b", "role": "c"}]"#, "unknown field `role`"),
        ] {
            let error = text.parse::<NamedTemplates>().unwrap_err();
            assert!(error.contains(told) && error.contains("write a list as"), "{text}: {error}");
        }
    }
}
