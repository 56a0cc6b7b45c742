//! A sampled text depends on its request and seed alone: on a real quantised model, alone and in company.

use serde_json::{Value, json};

use crate::company::{Company, prefix_hits, staggered, steps_of_more_than};
use crate::harness::{Gateway, prepared};

/// Prompts of one, two and three chunks of 16 tokens; the third has 49 tokens, a rest of one.
const PROMPTS: [&str; 4] = [
    "My favourite dish is",
    "Dear Sir or Madam, I am writing to you because the parcel that I ordered three weeks ago has not arrived, and",
    "Once upon a time, in a small village at the foot of a mountain, there lived an old clockmaker with his cat. \
     Every morning, before the sun rose, the two of them climbed up to the tower of the church, and one",
    "def median(values):\n    \"\"\"The middle value, or the mean of the two in the middle.\"\"\"\n",
];

fn requests() -> Vec<Value> {
    let pick = |values: &[f64], number: usize| values[number % values.len()];
    (0..8)
        .map(|number| {
            json!({
                "text": PROMPTS[number % PROMPTS.len()], "max_tokens": 24, "seed": 1000 + number,
                "temperature": pick(&[0.7, 1.0, 1.5], number), "top_p": pick(&[1.0, 0.9], number),
                "min_p": pick(&[0.0, 0.0, 0.02], number), "repetition_penalty": pick(&[1.0, 1.2], number / 2),
                "presence_penalty": 0.3, "frequency_penalty": pick(&[0.0, 0.5], number),
                "ignore_eos": true, "return_token_ids": true, "stream": true,
            })
        })
        .collect()
}

/// One after another, with nobody else.
async fn alone(gateway: &Gateway, requests: &[Value]) -> Vec<Value> {
    let mut answers = Vec::new();
    for request in requests {
        answers.extend(staggered(gateway, std::slice::from_ref(request), 0).await);
    }
    answers.into_iter().map(|metadata| metadata["token_ids"].clone()).collect()
}

#[tokio::test]
async fn a_seed_gives_the_same_text_alone_and_in_company_computed_and_copied() {
    let model = prepared("models/smollm2-135m-instruct-w8a8").display().to_string();
    let mut flags = ["--prefill-chunk-tokens=16", "--max-batch-size=24", "--prefix-memory=256Mi"];
    let gateway = Gateway::serving(&model, &flags).await;
    let requests = requests();
    let computed = alone(&gateway, &requests[..4]).await;
    let before = prefix_hits(&gateway).await;
    let first = alone(&gateway, &requests).await;
    // The prompts have 1 + 3 + 1 whole chunks before their last token, and each came twice.
    assert!(prefix_hits(&gateway).await >= before + 10.0 * 16.0, "beginnings were computed again");
    assert_eq!(computed, first[..4], "a copied beginning changed the text");

    let check_company = async |gateway: &Gateway, context: &str| {
        let company = Company { seed: 5, seats: 12, longest_prompt_words: 20, most_tokens: 40 };
        let answers = company.around(gateway, staggered(gateway, &requests, 2)).await;
        for ((request, first), answer) in requests.iter().zip(&first).zip(&answers) {
            assert_eq!(*first, answer["token_ids"], "{context}: {request}");
        }
        let crowded = steps_of_more_than(gateway, 4).await;
        assert!(crowded >= 24.0, "only {crowded} steps had more than 4 rows");
    };
    check_company(&gateway, "beginnings were copied").await;
    drop(gateway);
    flags[2] = "--prefix-memory=0";
    check_company(&Gateway::serving(&model, &flags).await, "beginnings were computed").await;
}
