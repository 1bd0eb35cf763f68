"""One row of each format that `rewards/formats` reads, by hand, as the data sets' own pages describe them."""

from __future__ import annotations

from typing import Any

ROWS: dict[str, dict[str, Any]] = {
    "trl": {"prompt": "Is 9.8 over 9.11?", "completions": ["It has 8 tenths.\n", "So no."], "labels": [True, False]},
    "math_shepherd": {
        "input": "How many? Step 1: 5+8 = <<5+8=13>>13. ки\nStep 2: 13-1=11. The answer is: 11 ки",
        "label": "How many? Step 1: 5+8 = <<5+8=13>>13. +\nStep 2: 13-1=11. The answer is: 11 -",
        "task": "GSM8K",
    },
    "prm800k": {
        "labeler": "340d",
        "timestamp": "2023-01-22T04:34:27.052924",
        "generation": 9,
        "is_quality_control_question": False,
        "is_initial_screening_question": False,
        "question": {
            "problem": "What is the GCF of $20!$ and 200,000?",
            "ground_truth_solution": "The prime factorization …",
            "ground_truth_answer": "40,\\!000",
            "pre_generated_steps": ["I look.", "I factor.", "So it is 1.\n\n# Answer\n\n1"],
            "pre_generated_answer": "1",
            "pre_generated_verifier_score": 0.010779580529581414,
        },
        "label": {
            "steps": [
                {
                    "completions": [{"text": "I look.", "rating": 0, "flagged": None}],
                    "human_completion": None,
                    "chosen_completion": 0,
                },
                {
                    "completions": [
                        {"text": "I guess.", "rating": -1, "flagged": None},
                        {"text": "I factor.", "rating": 1, "flagged": False},
                    ],
                    "human_completion": None,
                    "chosen_completion": 1,
                },
                {
                    "completions": [
                        {"text": "So it is 1.\n\n# Answer\n\n1", "rating": -1, "flagged": None},
                        {"text": "I go on.", "rating": 0, "flagged": False},
                    ],
                    "human_completion": None,
                    "chosen_completion": None,
                },
            ],
            "total_time": 278270,
            "finish_reason": "found_error",
        },
    },
    "processbench": {
        "id": "gsm8k-0",
        "generator": "Qwen2-7B-Instruct",
        "problem": "Sue lives in a fun neighborhood…",
        "steps": ["On Friday, 18.\n\nThen more.", "On Saturday 6.", "So 12."],
        "final_answer_correct": False,
        "label": 1,
    },
    "mr_gsm8k": {
        "uuid": "0056b847",
        "question": "How much?",
        "ground_truth_solution": "It is 7000.\n#### 7000",
        "ground_truth_answer": "7000",
        "model_output_steps": ["Step 1: 180.", "Step 2: 9000.", "Step 3: 11000.", "Step 4: 11000."],
        "model_output_answer_correctness": "wrong",
        "model_output_solution_correctness": "wrong",
        "model_output_solution_first_error_step": 3,
        "model_output_solution_first_error_reason": "It is minus.",
        "question_type": "original",
    },
    "mr_gsm8k_short": {
        "id": "0056b847",
        "question": "How much?",
        "answer": "7000",
        "solution": "It is 7000.\n#### 7000",
        "steps": ["Step 1: 180.", "Step 2: 9000.", "Step 3: 11000."],
        "final_answer_correct": False,
        "first_error_step": 2,
    },
    "rlhflow": {
        "conversations": [
            {"role": "user", "content": "How many? Step 1: 5+8 = 13."},
            {"role": "assistant", "content": "+"},
            {"role": "user", "content": "Step 2: So 12. The answer is: 12"},
            {"role": "assistant", "content": "-"},
        ],
        "prior": "mistral",
    },
    "er_prm": {"text": "How many? Step 1: 5+8 = 13. ки Step 2: So 12. ки", "value": [1.0, 0.0], "source": "math"},
    "math_aps": {
        "question": "How many?",
        "process": "Step 1: 5+8 = 13.\n\n\n\n\nStep 2: So 12.\n\n\n\n\n",
        "label": ["+", "-"],
    },
    "paddlenlp": {"src": ["How many?"], "tgt": [], "responses": ["5+8 = 13.", "So 12."], "labels": ["+", "-"]},
}
