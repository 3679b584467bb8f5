// What a server of scores tells Prometheus.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace savior {

//   savior_requests_total{endpoint, code}    answered requests; endpoint as in EndpointName
//   savior_request_seconds{endpoint}         from the end of the request's head to the answer
//   (histogram) savior_candidates                        per scored request (histogram)
//   savior_requests_in_flight                being scored
//   savior_connections                       open ones
//   savior_model_step, savior_model_info{version, codebook}     what answers now
//   savior_reloads_total{result="ok" | "failed"}, savior_load_seconds     of bundles
//
// Thread-safe.
class ServingMetrics {
 public:
  ServingMetrics();
  ~ServingMetrics();
  ServingMetrics(const ServingMetrics&) = delete;
  ServingMetrics& operator=(const ServingMetrics&) = delete;

  void Answered(std::string_view endpoint, int code, double seconds);
  void Scored(size_t candidates);
  void InFlight(int change);
  void Connections(int change);
  // A bundle was loaded and answers from now on. `seconds` of loading.
  void Loaded(const std::string& version, int64_t step, const std::string& codebook,
              double seconds);
  void LoadFailed();

  // The text format that Prometheus reads.
  std::string Text() const;

 private:
  struct State;  // prometheus-cpp is in the .cc only
  const std::unique_ptr<State> state_;
};

}  // namespace savior
