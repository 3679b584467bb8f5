// The configuration of a run: every key, its default, its bounds and its meaning, in one place.
//
// Precedence: defaults < TOML file < `key=value` on the command line. docs/configuration.md is
// generated from the same field list (a test fails when it is stale).
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "common/status.h"

namespace savior {

struct Config {
  int64_t seed = 1;

  struct Data {
    std::string raw;
    std::string cache;
    std::string train_from, train_until, eval_from, eval_until;
    int64_t max_history = 50;
    int64_t prepare_memory_mb = 1024;
  } data;

  struct Run {
    std::string dir = "runs/default";
  } run;

  struct Encoder {
    std::string kind = "swing_residual";
    int64_t dim = 64;
    int64_t hidden = 256;
    double temperature = 0.1;
    int64_t batch = 1024;
    int64_t steps = 350;
    double lr = 1e-3;
    double weight_decay = 1e-4;
    double initial_alpha = 0.3;
    bool refreshable = false;
    int64_t swing_users_per_item = 20;
    int64_t swing_neighbours = 20;
    int64_t swing_min_count = 3;
    double swing_popularity_power = 0.5;
  } encoder;

  struct Codebook {
    int64_t levels = 2;
    int64_t codes = 32;
    int64_t latent = 0;
    int64_t hidden = 128;
    double beta = 0.25;
    double contrastive_weight = 0.03;
    int64_t kmeans_iterations = 50;
    int64_t finetune_steps = 500;
    double lr = 3e-3;
    std::string learn_until;
  } codebook;

  struct Refresh {  // of the codebook, while the run goes on
    bool on_drift = false;
    double max_rq_mse_ratio = 1.15;
    double max_perplexity_drop = 0.10;
    double max_new_code_share = 1.0;
    int64_t at_step = 0;
    int64_t switch_after_steps = 0;
    int64_t probation_steps = 1000;
    double cpu_share = 0.2;
    int64_t iterations = 20;
    int64_t encoder_steps = 100;
    double encoder_lr = 2e-4;
    double hysteresis = 1.05;
    int64_t finetune_steps = 200;
    double finetune_lr = 1e-3;
    std::string remap = "distilled";
    double lambda = 0.01;
    int64_t distil_steps = 300;
    double distil_lr = 5e-3;
    int64_t sample = 8192;
    double min_preserved_r2 = 0.9;
    double max_error_ratio = 1.01;
    double max_dead_share = 0.05;
    double max_churn = 0.10;
    double replay_hours = 24;
    double max_auc_loss = 0.05;
  } refresh;

  struct Model {
    std::string arm = "savior";
    std::string alignment = "hybrid";
    bool prefix_ngrams = false;
    bool simtier = true;
    bool behaviour_features = false;
    int64_t id_dim = 32;
    int64_t feature_dim = 16;
    int64_t attention_hidden = 16;
    std::string dnn = "256,128";
    std::string tower = "64";
    int64_t fusion_hidden = 64;
    double hybrid_shrinkage = 20;
    double hybrid_suffix_dropout = 0.3;
    double id_dropout = 0.0;
    double init_scale = 0.01;
  } model;

  struct Train {
    int64_t requests_per_batch = 64;
    int64_t shuffle_window = 2048;
    int64_t epochs = 1;
    int64_t max_steps = 0;
    double dense_lr = 2e-3;
    double dense_weight_decay = 0;
    std::string table_optimizer = "adagrad";
    double table_lr = 0.1;
    double align_lr = 0.1;
    double conversion_loss_weight = 1.0;
    int64_t threads = 1;
    double metrics_every_s = 5;
  } train;

  struct Ps {
    int64_t shards = 1;
    int64_t ram_budget_mb = 2048;
    double timeout_s = 60;
    std::string store_dtype = "float32";
    std::string bad_gradients = "reject";
    std::string admission = "all";
    int64_t admission_count = 2;
    double admission_probability = 0.1;
    int64_t eviction_idle_steps = 0;
    double eviction_min_score = 0;
    int64_t eviction_score_idle_steps = 10000;
    int64_t eviction_capacity_rows = 0;
    int64_t eviction_floor_rows = 0;
    double eviction_max_share_per_minute = 0.01;
    int64_t steps_per_minute = 1000;
    std::string live_dir;
  } ps;

  struct Cluster {
    int64_t servers = 0;
    int64_t workers = 0;
    int64_t servers_per_node = 0;
    int64_t workers_per_node = 0;
    std::string interface;
    int64_t port = 0;
    int64_t staleness = 0;
    std::string wire_dtype = "float32";
    std::string allreduce_dtype = "float32";
    double allreduce_timeout_s = 60;
    int64_t digest_every_steps = 1000;
    std::string device = "auto";
    double start_timeout_s = 120;
    double lease_s = 30;
    int64_t max_restarts = 10;
    double restart_after_s = 1;
  } cluster;

  struct Security {
    std::string curve = "auto";
    bool insecure = false;
  } security;

  struct Commit {
    double interval_s = 60;
    int64_t every_steps = 0;
    int64_t keep = 2;
  } commit;

  struct Export {  // of bundles, while the run goes on
    std::string dir;
    double every_s = 0;
    std::string precision = "float32";
    int64_t full_every = 24;
    int64_t keep = 2;
  } exports;

  struct Eval {
    int64_t requests_per_batch = 256;
    bool save_predictions = false;
    bool progressive = false;
    std::map<std::string, std::string> buckets = {{"all", ""}};
    std::vector<std::string> bucket_order() const;  // "all" first, the others by name
  } eval;
};

// One key. `value` points into the Config that it was made for.
struct ConfigField {
  std::string key;
  std::variant<bool*, int64_t*, double*, std::string*, std::map<std::string, std::string>*> value;
  std::string doc;  // with the unit
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool above_min = false;            // min itself is excluded
  std::vector<std::string> choices;  // strings: allowed values; empty: any
};

std::vector<ConfigField> ConfigFields(Config& config);

// Reads `path` ("" = defaults only), applies `overrides` ("train.dense_lr=0.01") and checks every
// value. kInvalidArgument / kNotFound: "configs/x.toml: train.dense_lr = -1: must be > 0"; an
// unknown key names the nearest.
[[nodiscard]] absl::StatusOr<Config> LoadConfig(const std::string& path,
                                                const std::vector<std::string>& overrides);

// The configuration that `toml` (ToToml's) says.
[[nodiscard]] absl::StatusOr<Config> ParseConfig(const std::string& toml);

// TOML that LoadConfig reads back to an equal Config; all keys, sorted by section.
std::string ToToml(const Config& config);

// Keys whose values differ, as "key (a | b)".
std::vector<std::string> DifferentKeys(const Config& a, const Config& b);

// docs/configuration.md.
std::string ConfigurationPage();

// Of `candidates`, the one with the smallest edit distance to `word`. candidates not empty.
std::string Nearest(std::string_view word, const std::vector<std::string>& candidates);

// "2017-04-30" -> unix seconds of its midnight, UTC. kInvalidArgument says what was found.
[[nodiscard]] absl::StatusOr<int64_t> ParseDate(const std::string& date);

// The day, in UTC, of a time in unix seconds: "2017-04-30".
std::string FormatDate(int64_t seconds);

// "256,128" -> {256, 128}; every entry in [1, 65536]. "" -> {}.
[[nodiscard]] absl::StatusOr<std::vector<int64_t>> ParseSizes(const std::string& sizes);

}  // namespace savior
