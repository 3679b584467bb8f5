#include "serving/serving_metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <mutex>

namespace savior {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;

namespace {

template <typename Builder>
auto& Build(Builder builder, const char* name, const char* help, prometheus::Registry& registry) {
  return builder.Name(name).Help(help).Register(registry);
}

Histogram::BucketBoundaries Seconds() {
  return {0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10};
}

Histogram::BucketBoundaries Candidates() {
  return {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10'000};
}

}  // namespace

struct ServingMetrics::State {
  mutable prometheus::Registry registry;
  Family<Counter>& requests = Build(prometheus::BuildCounter(), "savior_requests_total",
                                    "Answered requests by endpoint and status code", registry);
  Family<Histogram>& seconds = Build(prometheus::BuildHistogram(), "savior_request_seconds",
                                     "Seconds from a request's head to its answer", registry);
  Histogram& candidates = Build(prometheus::BuildHistogram(), "savior_candidates",
                                "Candidates of a scored request", registry)
                              .Add({}, Candidates());
  Gauge& in_flight = Build(prometheus::BuildGauge(), "savior_requests_in_flight",
                           "Requests that are being scored", registry)
                         .Add({});
  Gauge& connections =
      Build(prometheus::BuildGauge(), "savior_connections", "Open connections", registry).Add({});
  Gauge& step = Build(prometheus::BuildGauge(), "savior_model_step",
                      "Training step of the model that answers", registry)
                    .Add({});
  Family<Gauge>& info = Build(prometheus::BuildGauge(), "savior_model_info",
                              "1, with the version of the model that answers", registry);
  Family<Counter>& reloads = Build(prometheus::BuildCounter(), "savior_reloads_total",
                                   "Attempts to load a new bundle", registry);
  Counter& loaded = reloads.Add({{"result", "ok"}});
  Counter& load_failed = reloads.Add({{"result", "failed"}});
  Gauge& load_seconds = Build(prometheus::BuildGauge(), "savior_load_seconds",
                              "Seconds that loading the last bundle took", registry)
                            .Add({});

  std::mutex mutex;
  Gauge* current_info = nullptr;  // guarded by mutex
};

ServingMetrics::ServingMetrics() : state_(std::make_unique<State>()) {}
ServingMetrics::~ServingMetrics() = default;

void ServingMetrics::Answered(std::string_view endpoint, int code, double seconds) {
  const std::string name(endpoint);
  state_->requests.Add({{"endpoint", name}, {"code", std::to_string(code)}}).Increment();
  state_->seconds.Add({{"endpoint", name}}, Seconds()).Observe(seconds);
}

void ServingMetrics::Scored(size_t candidates) {
  state_->candidates.Observe(static_cast<double>(candidates));
}

void ServingMetrics::InFlight(int change) { state_->in_flight.Increment(change); }

void ServingMetrics::Connections(int change) { state_->connections.Increment(change); }

void ServingMetrics::Loaded(const std::string& version, int64_t step, const std::string& codebook,
                            double seconds) {
  state_->loaded.Increment();
  state_->load_seconds.Set(seconds);
  state_->step.Set(static_cast<double>(step));
  const std::lock_guard lock(state_->mutex);
  if (state_->current_info != nullptr) state_->info.Remove(state_->current_info);
  state_->current_info = &state_->info.Add({{"version", version}, {"codebook", codebook}});
  state_->current_info->Set(1);
}

void ServingMetrics::LoadFailed() { state_->load_failed.Increment(); }

std::string ServingMetrics::Text() const {
  return prometheus::TextSerializer().Serialize(state_->registry.Collect());
}

}  // namespace savior
