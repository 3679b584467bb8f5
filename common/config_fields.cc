// The list of all configuration keys: the only place to edit when one is added.

#include "common/config.h"

namespace savior {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

ConfigField Positive(std::string key, double* value, std::string doc) {
  return {std::move(key), value, std::move(doc), 0, kInf, true, {}};
}
ConfigField NotNegative(std::string key, double* value, std::string doc) {
  return {std::move(key), value, std::move(doc), 0, kInf, false, {}};
}
ConfigField Share(std::string key, double* value, std::string doc) {
  return {std::move(key), value, std::move(doc), 0, 0.99, false, {}};
}
ConfigField PositiveShare(std::string key, double* value, std::string doc) {
  return {std::move(key), value, std::move(doc), 0, 1, true, {}};
}
ConfigField Count(std::string key, int64_t* value, double min, double max, std::string doc) {
  return {std::move(key), value, std::move(doc), min, max, false, {}};
}
ConfigField Text(std::string key, std::string* value, std::string doc,
                 std::vector<std::string> choices = {}) {
  return {std::move(key), value, std::move(doc), -kInf, kInf, false, std::move(choices)};
}
ConfigField Switch(std::string key, bool* value, std::string doc) {
  return {std::move(key), value, std::move(doc), -kInf, kInf, false, {}};
}

void DataFields(Config& c, std::vector<ConfigField>& f) {
  f.push_back(
      Count("seed", &c.seed, 0, 9e15,
            "Seed of everything random. Equal seed, data and worker count: bit-identical run"));
  f.push_back(Text("data.raw", &c.data.raw,
                   "Folder with the raw data set: impressions, behaviours, items, item_vectors "
                   "(docs/datasets.md)"));
  f.push_back(Text("data.cache", &c.data.cache,
                   "Folder for prepared training logs, keyed by the raw data's fingerprint. Empty: "
                   "$SAVIOR_CACHE/logs, "
                   "else $XDG_CACHE_HOME/savior/logs, else ~/.cache/savior/logs"));
  f.push_back(Text("data.train_from", &c.data.train_from,
                   "First day to train on, YYYY-MM-DD, UTC. Earlier behaviours still appear in "
                   "histories and counts"));
  f.push_back(Text("data.train_until", &c.data.train_until,
                   "Day after the last day to train on; a run may go on "
                   "with a later one (docs/datasets.md)"));
  f.push_back(Text("data.eval_from", &c.data.eval_from,
                   "First day to evaluate on; not before data.train_until"));
  f.push_back(Text("data.eval_until", &c.data.eval_until, "Day after the last day to evaluate on"));
  f.push_back(Count("data.max_history", &c.data.max_history, 0, 1000,
                    "Most recent behaviours per request that form its history"));
  f.push_back(Count("data.prepare_memory_mb", &c.data.prepare_memory_mb, 16, 1 << 20,
                    "RAM in MiB that `prepare` may use for sorting before it spills to disk"));
  f.push_back(Text("run.dir", &c.run.dir,
                   "Folder of the run: resolved.toml, metrics.jsonl, result.json, commits/"));
}

void EncoderFields(Config& c, std::vector<ConfigField>& f) {
  auto& e = c.encoder;
  f.push_back(Text("encoder.kind", &e.kind,
                   "SaviorEnc trained on Swing pairs in residual form, or plain PCA",
                   {"swing_residual", "pca"}));
  f.push_back(
      Count("encoder.dim", &e.dim, 4, 512, "Length of the content vector z; a multiple of 4"));
  f.push_back(Count("encoder.hidden", &e.hidden, 1, 4096, "Hidden units of the encoder's MLP"));
  f.push_back(Positive("encoder.temperature", &e.temperature, "InfoNCE temperature"));
  f.push_back(Count("encoder.batch", &e.batch, 2, 65536, "Pairs per encoder step"));
  f.push_back(Count("encoder.steps", &e.steps, 0, 1e7, "Encoder steps; 0 leaves plain PCA"));
  f.push_back(
      Positive("encoder.lr", &e.lr, "AdamW learning rate at the start; falls linearly to 0"));
  f.push_back(NotNegative("encoder.weight_decay", &e.weight_decay, "AdamW weight decay"));
  f.push_back(Positive("encoder.initial_alpha", &e.initial_alpha,
                       "Weight of the learned part beside the PCA anchor"));
  f.push_back(Switch("encoder.refreshable", &e.refreshable,
                     "Every refresh of the codebook trains the encoder on, too "
                     "(refresh.encoder_steps); takes room for a second z per item"));
  f.push_back(Count("encoder.swing_users_per_item", &e.swing_users_per_item, 2, 10000,
                    "Users sampled per item for Swing similarity"));
  f.push_back(Count("encoder.swing_neighbours", &e.swing_neighbours, 1, 1000,
                    "Swing neighbours kept per item"));
  f.push_back(Count("encoder.swing_min_count", &e.swing_min_count, 1, 1e6,
                    "Users that an item needs before it forms pairs"));
  f.push_back(
      NotNegative("encoder.swing_popularity_power", &e.swing_popularity_power,
                  "Swing similarity is divided by (users of the neighbour + 1) to this power"));
}

void CodebookFields(Config& c, std::vector<ConfigField>& f) {
  auto& b = c.codebook;
  f.push_back(Count("codebook.levels", &b.levels, 1, 8, "Levels L of the residual quantiser"));
  f.push_back(Count("codebook.codes", &b.codes, 2, 4096, "Codes K per level"));
  f.push_back(Count("codebook.latent", &b.latent, 0, 512,
                    "Length of the quantised latent; 0: as long as z"));
  f.push_back(
      Count("codebook.hidden", &b.hidden, 1, 4096, "Hidden units of the RQ encoder and decoder"));
  f.push_back(NotNegative("codebook.beta", &b.beta, "Weight of the commitment loss"));
  f.push_back(NotNegative("codebook.contrastive_weight", &b.contrastive_weight,
                          "Weight of the contrastive loss on decoded pairs"));
  f.push_back(Count("codebook.kmeans_iterations", &b.kmeans_iterations, 1, 10000,
                    "Iterations of the k-means start"));
  f.push_back(Count("codebook.finetune_steps", &b.finetune_steps, 0, 1e7,
                    "RQ-VAE steps after it; 0: residual k-means on z itself"));
  f.push_back(Positive("codebook.lr", &b.lr, "AdamW learning rate of the RQ-VAE"));
  f.push_back(Text("codebook.learn_until", &b.learn_until,
                   "Date; encoder and codebook learn from the days before it. Empty: "
                   "data.train_until. Earlier: later items come as news, and the codebook may be "
                   "refreshed (docs/refresh.md)"));
}

void DriftFields(Config& c, std::vector<ConfigField>& f) {
  auto& r = c.refresh;
  f.push_back(Switch("refresh.on_drift", &r.on_drift,
                     "Refreshes the codebook when a bound below is passed at the end of a day of "
                     "training data; by hand (savior refresh) always (docs/refresh.md)"));
  f.push_back(Positive("refresh.max_rq_mse_ratio", &r.max_rq_mse_ratio,
                       "Drift: quantisation error of items listed since the codebook was built, "
                       "over that of those it was built from"));
  f.push_back(PositiveShare("refresh.max_perplexity_drop", &r.max_perplexity_drop,
                            "Drift: share by which the perplexity of any level falls"));
  f.push_back(PositiveShare("refresh.max_new_code_share", &r.max_new_code_share,
                            "Drift: share of new items whose codes, together, no older item has; "
                            "1: never"));
  f.push_back(Count("refresh.at_step", &r.at_step, 0, 1e12,
                    "Begins the first refresh after this step, whatever the drift: for experiments "
                    "that repeat; 0: not"));
  f.push_back(Count("refresh.switch_after_steps", &r.switch_after_steps, 0, 1e9,
                    "Steps from the beginning of a refresh to its switch: with a number, training "
                    "waits there if need be, and runs repeat bit by bit; 0: when it is ready"));
  f.push_back(Count("refresh.probation_steps", &r.probation_steps, 0, 1e12,
                    "Steps after a switch for which the commit made at it is kept, so that it can "
                    "be rolled back exactly; until then no other refresh begins"));
}

void RefreshFields(Config& c, std::vector<ConfigField>& f) {
  DriftFields(c, f);
  auto& r = c.refresh;
  f.push_back(PositiveShare("refresh.cpu_share", &r.cpu_share,
                            "Share of a core that building takes of every worker"));
  f.push_back(Count("refresh.iterations", &r.iterations, 0, 10000,
                    "Iterations of k-means per level, at most, from the codes in use"));
  f.push_back(Count("refresh.encoder_steps", &r.encoder_steps, 0, 1e7,
                    "With encoder.refreshable: steps that the encoder is trained on for, on the "
                    "pairs of all data so far; 0: it stays"));
  f.push_back(Positive("refresh.encoder_lr", &r.encoder_lr,
                       "AdamW learning rate at their start; falls linearly to 0"));
  f.push_back(Count("refresh.finetune_steps", &r.finetune_steps, 0, 1e7,
                    "RQ-VAE steps of all workers together after it; of a codebook without encoder "
                    "(codebook.finetune_steps = 0): none"));
  f.push_back(Positive("refresh.finetune_lr", &r.finetune_lr, "AdamW learning rate of them"));
  f.push_back({"refresh.hysteresis",
               &r.hysteresis,
               "An item keeps its code while that one's distance is at most this times the least",
               1.0,
               kInf,
               false,
               {}});
  f.push_back(Text("refresh.remap", &r.remap,
                   "How alignment rows become rows of the new codes: conditional mean and "
                   "distillation, or an arm of the ablation",
                   {"distilled", "conditional_mean", "hungarian", "index", "zero"}));
  f.push_back(
      NotNegative("refresh.lambda", &r.lambda,
                  "Weight of zero in the conditional mean, in square roots of impressions"));
  f.push_back(Count("refresh.distil_steps", &r.distil_steps, 0, 1e6, "Steps of distillation"));
  f.push_back(Positive("refresh.distil_lr", &r.distil_lr, "Adam learning rate of it, linear to 0"));
  f.push_back(Count("refresh.sample", &r.sample, 1, 1e7,
                    "Items that distillation learns from; as many others measure it"));
  f.push_back({"refresh.min_preserved_r2",
               &r.min_preserved_r2,
               "Gate: a new version that preserves less of what alignment adds is given up",
               -kInf,
               1.0,
               false,
               {}});
  f.push_back(Positive("refresh.max_error_ratio", &r.max_error_ratio,
                       "Gate: quantisation error of all items under the new codebook over that "
                       "under the old one"));
  f.push_back({"refresh.max_dead_share",
               &r.max_dead_share,
               "Gate: share of codes without items, if there are more than before; 1: none",
               0.0,
               1.0,
               false,
               {}});
  f.push_back({"refresh.max_churn",
               &r.max_churn,
               "Gate: share of items whose first code changes; 1: none",
               0.0,
               1.0,
               false,
               {}});
  f.push_back(NotNegative("refresh.replay_hours", &r.replay_hours,
                          "Hours of training data scored with either version; 0: no such gate"));
  f.push_back({"refresh.max_auc_loss",
               &r.max_auc_loss,
               "Gate: points of click AUC that the replay may lose",
               -kInf,
               kInf,
               false,
               {}});
}

void ModelFields(Config& c, std::vector<ConfigField>& f) {
  auto& m = c.model;
  f.push_back(
      Text("model.arm", &m.arm,
           "Which ranker: the ladder from `base` to `savior`, and the controls (docs/model.md)",
           {"base", "generic_content", "saviorenc", "sid", "mba", "savior", "mba_off",
            "shuffled_sid", "free_content"}));
  f.push_back(Text("model.alignment", &m.alignment,
                   "What the MBA block aligns with: the paper's code tables, or codes plus one "
                   "shrunk vector per content",
                   {"codes", "hybrid"}));
  f.push_back(Switch("model.prefix_ngrams", &m.prefix_ngrams,
                     "Beside the row of each code one for every prefix of two codes and more, in "
                     "arms that use codes"));
  f.push_back(
      Switch("model.simtier", &m.simtier,
             "Histogram of cos(z_target, z_history) into the DNN (arms with four attentions)"));
  f.push_back(Switch(
      "model.behaviour_features", &m.behaviour_features,
      "Adds projected side features to every behaviour embedding, in all arms (a stronger base)"));
  f.push_back(Count("model.id_dim", &m.id_dim, 4, 512,
                    "Length of user and item ID embeddings; a multiple of 4"));
  f.push_back(Count("model.feature_dim", &m.feature_dim, 4, 512,
                    "Length of categorical feature embeddings; a multiple of 4"));
  f.push_back(Count("model.attention_hidden", &m.attention_hidden, 1, 256,
                    "Hidden units of the DIN scorer"));
  f.push_back(Text("model.dnn", &m.dnn, "Hidden layers shared by pCTR and pCVR, comma separated"));
  f.push_back(
      Text("model.tower", &m.tower, "Hidden layers of each of the two towers, comma separated"));
  f.push_back(Count("model.fusion_hidden", &m.fusion_hidden, 1, 4096,
                    "Hidden units of the MBA fusion MLP"));
  f.push_back(NotNegative("model.hybrid_shrinkage", &m.hybrid_shrinkage,
                          "kappa: a content's own vector counts n/(n+kappa) after n updates"));
  f.push_back(Share("model.hybrid_suffix_dropout", &m.hybrid_suffix_dropout,
                    "Share of contents per step whose finer parts (a random suffix) are dropped"));
  f.push_back(
      Share("model.id_dropout", &m.id_dropout,
            "Share of candidate item IDs per step whose embedding is dropped while training"));
  f.push_back(NotNegative("model.init_scale", &m.init_scale, "Standard deviation of new ID rows"));
}

void TrainFields(Config& c, std::vector<ConfigField>& f) {
  auto& t = c.train;
  f.push_back(Count("train.requests_per_batch", &t.requests_per_batch, 1, 1 << 20,
                    "Requests per step; all impressions of a request go together"));
  f.push_back(Count(
      "train.shuffle_window", &t.shuffle_window, 0, 1 << 24,
      "Requests are shuffled inside windows of this many, in time order; 0: strict time order"));
  f.push_back(Count("train.epochs", &t.epochs, 1, 1000, "Passes over the training days"));
  f.push_back(
      Count("train.max_steps", &t.max_steps, 0, 1e12, "Stop after this many steps; 0: no limit"));
  f.push_back(Positive("train.dense_lr", &t.dense_lr, "Adam learning rate of dense weights"));
  f.push_back(NotNegative("train.dense_weight_decay", &t.dense_weight_decay,
                          "Decoupled weight decay of dense weights"));
  f.push_back(Text("train.table_optimizer", &t.table_optimizer,
                   "Optimizer of the embedding tables, run in the shards",
                   {"sgd", "adagrad", "rowwise_adagrad", "adam", "ftrl"}));
  f.push_back(Positive("train.table_lr", &t.table_lr, "Learning rate of ID and feature tables"));
  f.push_back(Positive("train.align_lr", &t.align_lr, "Learning rate of alignment tables"));
  f.push_back(NotNegative("train.conversion_loss_weight", &t.conversion_loss_weight,
                          "Weight of the pCTCVR loss beside the pCTR loss"));
  f.push_back(Count("train.threads", &t.threads, 1, 1024, "Compute threads of a worker"));
  f.push_back(Positive("train.metrics_every_s", &t.metrics_every_s,
                       "Seconds between lines of metrics.jsonl"));
}

void RuleFields(Config& c, std::vector<ConfigField>& f) {
  auto& p = c.ps;
  f.push_back(Text("ps.admission", &p.admission,
                   "Which new users and items get a row: all, those pushed ps.admission_count "
                   "times, or each push with ps.admission_probability (docs/tables.md)",
                   {"all", "count", "probability"}));
  f.push_back(Count("ps.admission_count", &p.admission_count, 2, 15,
                    "Pushes, this one included, that give a key its row"));
  f.push_back(PositiveShare("ps.admission_probability", &p.admission_probability,
                            "Probability that a push gives a key its row"));
  f.push_back(Count("ps.eviction_idle_steps", &p.eviction_idle_steps, 0, 4e9,
                    "User and item rows without a push for more steps than this are forgotten; 0: "
                    "none (docs/tables.md)"));
  f.push_back(NotNegative("ps.eviction_min_score", &p.eviction_min_score,
                          "Rows whose root mean square weight is below this go after "
                          "ps.eviction_score_idle_steps; 0: none"));
  f.push_back(Count("ps.eviction_score_idle_steps", &p.eviction_score_idle_steps, 1, 4e9,
                    "Steps without a push after which a row below ps.eviction_min_score goes"));
  f.push_back(Count("ps.eviction_capacity_rows", &p.eviction_capacity_rows, 0, 1e15,
                    "Rows per table (user, item) beyond which those idle longest go; 0: no bound"));
  f.push_back(Count("ps.eviction_floor_rows", &p.eviction_floor_rows, 0, 1e15,
                    "Rows per table that the idle and the score rule leave at least"));
  f.push_back(PositiveShare("ps.eviction_max_share_per_minute", &p.eviction_max_share_per_minute,
                            "Share of a table's rows that may go in a minute of "
                            "ps.steps_per_minute steps"));
  f.push_back(Count("ps.steps_per_minute", &p.steps_per_minute, 1, 1e9,
                    "Steps that eviction takes for a minute: its clock is the step, so that a "
                    "resumed run forgets the same rows"));
}

void PsFields(Config& c, std::vector<ConfigField>& f) {
  f.push_back(
      Count("ps.shards", &c.ps.shards, 1, 4096,
            "Parameter-server shards (one thread each), of all servers together; a server has at "
            "least one. Their number changes no result. At most the number of buckets"));
  f.push_back(
      Count("ps.ram_budget_mb", &c.ps.ram_budget_mb, 1, 1 << 24,
            "RAM in MiB for rows, all shards of a process together; the rest lives in RocksDB"));
  f.push_back(Text("ps.live_dir", &c.ps.live_dir,
                   "Folder for the shards' working files: a local disk. Empty: live/ in run.dir"));
  f.push_back(Positive("ps.timeout_s", &c.ps.timeout_s,
                       "Seconds that a pull or push may take before the run fails"));
  f.push_back(Text("ps.store_dtype", &c.ps.store_dtype,
                   "What the weights of learned tables are stored as; 16-bit ones are rounded "
                   "stochastically (docs/tables.md)",
                   {"float32", "float16", "bfloat16"}));
  f.push_back(Text("ps.bad_gradients", &c.ps.bad_gradients,
                   "Gradients that are not finite: fail the push, or skip the row and count it",
                   {"reject", "skip"}));
  RuleFields(c, f);
}

void PlacementFields(Config& c, std::vector<ConfigField>& f) {
  auto& k = c.cluster;
  f.push_back(Count("cluster.servers", &k.servers, 0, 4096,
                    "Server processes of the run, spread over the nodes; 0: as "
                    "cluster.servers_per_node says"));
  f.push_back(Count("cluster.workers", &k.workers, 0, 65535,
                    "Worker processes of the run; 0: as cluster.workers_per_node says"));
  f.push_back(Count("cluster.servers_per_node", &k.servers_per_node, 0, 4096,
                    "Server processes per node; 0: the first process of a node, which is also its "
                    "worker if it is the only one"));
  f.push_back(Count("cluster.workers_per_node", &k.workers_per_node, 0, 4096,
                    "Worker processes per node; 0: all that are no servers"));
  f.push_back(Text("cluster.interface", &k.interface,
                   "Network interface that shards and coordinator listen on, such as eth0. Empty: "
                   "loopback on one node, else the interface of the host name's address"));
  f.push_back(Count("cluster.port", &k.port, 0, 65535,
                    "Port of the coordinator; shard k listens on this + 1 + k. 0: free ports"));
}

void ClusterFields(Config& c, std::vector<ConfigField>& f) {
  auto& k = c.cluster;
  PlacementFields(c, f);
  f.push_back(Count("cluster.staleness", &k.staleness, -1, 64,
                    "Steps whose pushes a pull may be without: 0: synchronous, bit-identical from "
                    "run to run; -1: asynchronous. Dense weights are always synchronous"));
  f.push_back(Text("cluster.wire_dtype", &k.wire_dtype,
                   "What rows and their gradients are sent as between worker and shard",
                   {"float32", "bfloat16", "float16"}));
  f.push_back(Text("cluster.allreduce_dtype", &k.allreduce_dtype,
                   "What dense gradients are sent as between workers; bfloat16 with error feedback",
                   {"float32", "bfloat16"}));
  f.push_back(Positive("cluster.allreduce_timeout_s", &k.allreduce_timeout_s,
                       "Seconds that workers wait for each other at a step before the run fails"));
  f.push_back(Count("cluster.digest_every_steps", &k.digest_every_steps, 0, 1e12,
                    "Steps between comparisons of the workers' dense weights; 0: never"));
  f.push_back(Text("cluster.device", &k.device,
                   "Where workers compute. auto: on GPUs if the build has CUDA and every worker a "
                   "GPU of its own",
                   {"auto", "cpu", "cuda"}));
  f.push_back(Positive("cluster.start_timeout_s", &k.start_timeout_s,
                       "Seconds that each phase of the start may take, but for preparing data"));
  f.push_back(Positive("cluster.lease_s", &k.lease_s,
                       "Seconds of silence after which a process counts as dead and the run ends"));
  f.push_back(Count("cluster.max_restarts", &k.max_restarts, 0, 1e6,
                    "launch: restarts in a row without a new commit before it gives up"));
  f.push_back(Positive("cluster.restart_after_s", &k.restart_after_s,
                       "launch: seconds before the first restart; doubles up to 60 until a new "
                       "commit"));
  f.push_back(Text("security.curve", &c.security.curve,
                   "Encryption and authentication of connections: between nodes, or everywhere",
                   {"auto", "always"}));
  f.push_back(Switch("security.insecure", &c.security.insecure,
                     "Plain connections between nodes, for test beds: anybody who reaches the "
                     "ports can read and write the tables"));
}

void CommitAndEvalFields(Config& c, std::vector<ConfigField>& f) {
  f.push_back(NotNegative("commit.interval_s", &c.commit.interval_s,
                          "Seconds between commits (checkpoints), written while training goes on; "
                          "0: none by the clock. At the end and on Ctrl-C there always is one"));
  f.push_back(Count("commit.every_steps", &c.commit.every_steps, 0, 1e12,
                    "Steps between commits, besides; 0: none by steps. One that is due waits for "
                    "the one before"));
  f.push_back(
      Count("commit.keep", &c.commit.keep, 1, 10000, "Commits kept; older ones are deleted"));

  auto& x = c.exports;
  f.push_back(Text("export.dir", &x.dir,
                   "Folder of serving bundles that training publishes into, while it goes on and "
                   "at its end (docs/serving.md). Empty: none"));
  f.push_back(NotNegative("export.every_s", &x.every_s,
                          "Seconds between bundles; each is of a commit made for it. 0: only one, "
                          "at the end of the run"));
  f.push_back(Text("export.precision", &x.precision, "Of the rows in bundles",
                   {"float32", "float16", "int8"}));
  f.push_back(Count("export.full_every", &x.full_every, 0, 10000,
                    "Deltas between two full bundles; 0: every bundle is full"));
  f.push_back(Count("export.keep", &x.keep, 1, 10000,
                    "Full bundles kept, with their deltas; older ones are deleted"));

  f.push_back(Count("eval.requests_per_batch", &c.eval.requests_per_batch, 1, 1 << 20,
                    "Requests per scoring batch"));
  f.push_back(
      Switch("eval.save_predictions", &c.eval.save_predictions,
             "Writes predictions.parquet into the run folder (for paired tests between runs)"));
  f.push_back(Switch("eval.progressive", &c.eval.progressive,
                     "Scores every batch of training before it is learnt from, in place of the "
                     "evaluation period: the result is of the steps since the (re)start"));
  f.push_back({"eval.buckets",
               &c.eval.buckets,
               "Table name = predicate: cells of the evaluation, e.g. new = \"age_days <= 56\" "
               "(docs/evaluation.md)",
               -kInf,
               kInf,
               false,
               {}});
}

}  // namespace

std::vector<ConfigField> ConfigFields(Config& config) {
  std::vector<ConfigField> fields;
  DataFields(config, fields);
  EncoderFields(config, fields);
  CodebookFields(config, fields);
  RefreshFields(config, fields);
  ModelFields(config, fields);
  TrainFields(config, fields);
  PsFields(config, fields);
  ClusterFields(config, fields);
  CommitAndEvalFields(config, fields);
  return fields;
}

}  // namespace savior
