#include "launcher/golden_requests.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "common/tensor_file.h"
#include "worker/model/ranker.h"
#include "worker/step_inputs.h"

namespace savior {
namespace {

absl::StatusOr<std::unique_ptr<BatchReader>> SingleRequests(const RunInputs& inputs,
                                                            const Config& config) {
  BatchOptions options;
  options.period = inputs.periods.evaluation;
  options.requests_per_batch = 1;
  options.max_history = config.data.max_history;
  SAVIOR_ASSIGN_OR_RETURN(auto reader, BatchReader::Create(inputs.log.get(), options));
  if (reader->num_batches() > 0) return reader;
  options.period = inputs.periods.training;
  return BatchReader::Create(inputs.log.get(), options);
}

// The request of a batch of one, as a client would send it.
RankRequest RequestOf(const TrainingLog& log, const Batch& batch) {
  const auto id_of = [&log](int32_t item) {
    return static_cast<uint64_t>(log.item_ids()[static_cast<size_t>(item)]);
  };
  const LogSchema& schema = log.schema();
  RankRequest request;
  request.user = static_cast<uint64_t>(log.user_ids()[static_cast<size_t>(batch.users[0])]);
  request.timestamp = batch.timestamps[0];
  for (size_t p = 0; p < batch.history_items.size(); ++p) {
    request.history.push_back({id_of(batch.history_items[p]), batch.history_times[p]});
  }
  for (size_t n = 0; n < batch.items.size(); ++n) {
    Candidate& candidate = request.candidates.emplace_back();
    candidate.item = id_of(batch.items[n]);
    candidate.prior_count = batch.prior_counts[n];
    for (size_t f = 0; f < schema.context_features.size(); ++f) {
      const CategoricalFeature& feature = schema.context_features[f];
      candidate.features[feature.name] =
          feature.vocabulary[static_cast<size_t>(batch.context[f][n])];
    }
    for (size_t f = 0; f < schema.context_numerics.size(); ++f) {
      candidate.numerics[schema.context_numerics[f]] = batch.numerics[f][n];
    }
  }
  return request;
}

}  // namespace

absl::StatusOr<std::vector<GoldenRequest>> GoldenRequests(InspectedCommit& commit,
                                                          const RunInputs& inputs, int64_t count) {
  const Config& config = commit.config();
  const TrainingLog& log = *inputs.log;
  StepAssembler assembler(&log, config);
  assembler.UseCodebook(commit.codebook_version(), commit.codebook_build());
  Ranker ranker(config, {.features = assembler.num_features(),
                         .context = assembler.num_context(),
                         .numerics = assembler.num_numerics()});
  const std::filesystem::path dense = commit.commit().folder / kDenseFile;
  SAVIOR_ASSIGN_OR_RETURN(const TensorFile weights, ReadTensorFile(dense));
  SAVIOR_RETURN_IF_ERROR(Annotate(ranker.dense().Load(weights), dense.string()));
  SAVIOR_ASSIGN_OR_RETURN(const auto reader, SingleRequests(inputs, config));
  const int64_t all = reader->num_batches();
  count = std::min(count, all);
  std::vector<GoldenRequest> golden;
  for (int64_t i = 0; i < count; ++i) {
    SAVIOR_ASSIGN_OR_RETURN(Batch batch, reader->Read(i * all / count));
    if (batch.rows() == 0) continue;
    GoldenRequest& next = golden.emplace_back();
    next.request = RequestOf(log, batch);
    next.clicks = batch.clicks;
    SAVIOR_ASSIGN_OR_RETURN(
        StepInputs in, assembler.Assemble(std::move(batch), commit.store(), InspectDeadline()));
    SAVIOR_RETURN_IF_ERROR(FetchRows(in, commit.store(), InspectDeadline()));
    ranker.Predict(in, &next.p_ctr, &next.p_ctcvr);
  }
  return golden;
}

}  // namespace savior
