{{/*
Variables of the gateway. Those that other values decide are listed with the value to use: a setting or an extra variable of
the same name would say something else than the rest of the pod.
*/}}

{{- define "inference-gateway.ownVariables" -}}
POD_NAME: nothing, it is the pod's name
POD_NAMESPACE: nothing, it is the pod's namespace
HOME: nothing, it is /tmp
HTTP_PROXY: proxy.http
HTTPS_PROXY: proxy.https
NO_PROXY: proxy.none
HF_HOME: cache
HF_TOKEN: hubToken
INFERENCE_AUTH_AUDIENCES: auth.audiences
INFERENCE_AUTH_KEYS_FILE: auth.keys.secretName
INFERENCE_AUTH_MODE: auth.mode
INFERENCE_CACHE_DIR: cache
INFERENCE_CA_BUNDLE: caBundle.configMapName
INFERENCE_STATE_DIR: cache
INFERENCE_DEFAULT_CHAT_TEMPLATE: model.chatTemplate
INFERENCE_DEFAULT_MODEL_NAME: model.name
INFERENCE_DEFAULT_MODEL_PATH: model.source
INFERENCE_DEFAULT_PROMPT_TEMPLATE: model.promptTemplate
INFERENCE_DEFAULT_PROMPT_TEMPLATES: model.promptTemplates
INFERENCE_DEFAULT_TOKENIZER: model.tokenizer
INFERENCE_DRAIN_TIMEOUT: drainSeconds
INFERENCE_GATEWAY_NAME: gatewayName with mode crd
INFERENCE_LISTEN_ADDRESS: listenHost
INFERENCE_METRICS_AUTH: auth.metrics
INFERENCE_MODELS_CONFIG_MAP: mode configMap with configMap.watch api
INFERENCE_MODELS_FILE: mode configMap with configMap.watch mount
INFERENCE_MODEL_ROOT: modelRoot.mountPath
INFERENCE_OPS_ADDRESS: listenHost
INFERENCE_PICKER_METRICS: pickerMetrics
INFERENCE_SHUTDOWN_DELAY: leaveSeconds
INFERENCE_TLS_CERT_FILE: tls.secretName
INFERENCE_TLS_CLIENT_CA_FILE: tls.clientCa.configMapName
INFERENCE_TLS_KEY_FILE: tls.secretName
OTEL_EXPORTER_OTLP_ENDPOINT: traces.endpoint
OTEL_EXPORTER_OTLP_HEADERS: traces.headersSecret
OTEL_EXPORTER_OTLP_PROTOCOL: traces.protocol
OTEL_RESOURCE_ATTRIBUTES: traces.resourceAttributes
OTEL_SERVICE_NAME: traces.serviceName
OTEL_TRACES_SAMPLER: traces.sampler
OTEL_TRACES_SAMPLER_ARG: traces.samplerArg
{{- end }}

{{/* A value as text. Numbers of values.yaml are floats, which would be written as 2.097152e+06. */}}
{{- define "inference-gateway.text" -}}
{{- if kindIs "float64" . }}{{ if eq (floor .) . }}{{ int64 . }}{{ else }}{{ . }}{{ end }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{- define "inference-gateway.environment" -}}
- name: POD_NAME
  valueFrom:
    fieldRef: {fieldPath: metadata.name}
- name: POD_NAMESPACE
  valueFrom:
    fieldRef: {fieldPath: metadata.namespace}
- {name: HOME, value: /tmp}
- {name: INFERENCE_LISTEN_ADDRESS, value: {{ printf "%s:3000" .Values.listenHost | quote }}}
- {name: INFERENCE_OPS_ADDRESS, value: {{ printf "%s:3001" .Values.listenHost | quote }}}
- {name: INFERENCE_CACHE_DIR, value: /var/cache/inference-gateway}
# Of this pod alone, also where pods share the cache.
- {name: INFERENCE_STATE_DIR, value: /var/cache/inference-gateway/state/$(POD_NAME)}
- {name: HF_HOME, value: /var/cache/inference-gateway/hub}
- {name: INFERENCE_MODEL_ROOT, value: {{ .Values.modelRoot.mountPath | quote }}}
- {name: INFERENCE_SHUTDOWN_DELAY, value: {{ printf "%ds" (int64 .Values.leaveSeconds) | quote }}}
- {name: INFERENCE_DRAIN_TIMEOUT, value: {{ printf "%ds" (int64 .Values.drainSeconds) | quote }}}
{{- if eq .Values.mode "env" }}
- {name: INFERENCE_DEFAULT_MODEL_NAME, value: {{ .Values.model.name | quote }}}
- {name: INFERENCE_DEFAULT_MODEL_PATH, value: {{ .Values.model.source | quote }}}
{{- with .Values.model.tokenizer }}
- {name: INFERENCE_DEFAULT_TOKENIZER, value: {{ . | quote }}}
{{- end }}
{{- /* A pod's variables may name others as $(NAME): $$( is the text itself. */}}
{{- with .Values.model.chatTemplate }}
- {name: INFERENCE_DEFAULT_CHAT_TEMPLATE, value: {{ replace "$(" "$$(" . | quote }}}
{{- end }}
{{- with .Values.model.promptTemplate }}
- {name: INFERENCE_DEFAULT_PROMPT_TEMPLATE, value: {{ replace "$(" "$$(" . | quote }}}
{{- end }}
{{- with .Values.model.promptTemplates }}
- {name: INFERENCE_DEFAULT_PROMPT_TEMPLATES, value: {{ toJson . | replace "$(" "$$(" | quote }}}
{{- end }}
{{- else if eq .Values.mode "crd" }}
- {name: INFERENCE_GATEWAY_NAME, value: {{ .Values.gatewayName | quote }}}
{{- else if eq .Values.configMap.watch "api" }}
- {name: INFERENCE_MODELS_CONFIG_MAP, value: {{ include "inference-gateway.modelsConfigMapName" . | quote }}}
{{- else }}
- {name: INFERENCE_MODELS_FILE, value: /etc/inference-gateway/models/models.yaml}
{{- end }}
{{- with .Values.auth }}
- {name: INFERENCE_AUTH_MODE, value: {{ .mode }}}
{{- if eq .mode "apiKeys" }}
- {name: INFERENCE_AUTH_KEYS_FILE, value: /etc/inference-gateway/keys/keys.yaml}
{{- end }}
{{- with .audiences }}
- {name: INFERENCE_AUTH_AUDIENCES, value: {{ join "," . | quote }}}
{{- end }}
{{- if ne .metrics "none" }}
- {name: INFERENCE_METRICS_AUTH, value: {{ .metrics }}}
{{- end }}
{{- end }}
{{- if .Values.tls.secretName }}
- {name: INFERENCE_TLS_CERT_FILE, value: /etc/inference-gateway/tls/tls.crt}
- {name: INFERENCE_TLS_KEY_FILE, value: /etc/inference-gateway/tls/tls.key}
{{- if .Values.tls.clientCa.configMapName }}
- {name: INFERENCE_TLS_CLIENT_CA_FILE, value: /etc/inference-gateway/client-authorities/ca.crt}
{{- end }}
{{- end }}
{{- with .Values.proxy }}
{{- with .https }}
- {name: HTTPS_PROXY, value: {{ . | quote }}}
{{- end }}
{{- with .http }}
- {name: HTTP_PROXY, value: {{ . | quote }}}
{{- end }}
{{- with .none }}
- {name: NO_PROXY, value: {{ . | quote }}}
{{- end }}
{{- end }}
{{- if .Values.caBundle.configMapName }}
- {name: INFERENCE_CA_BUNDLE, value: /etc/inference-gateway/authorities/ca.crt}
{{- end }}
{{- with .Values.hubToken.secretName }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ . | quote }}, key: {{ $.Values.hubToken.key | quote }}}
{{- end }}
{{- if .Values.pickerMetrics }}
- {name: INFERENCE_PICKER_METRICS, value: "true"}
{{- end }}
{{- with .Values.traces }}
{{- if .endpoint }}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ .endpoint | quote }}}
- {name: OTEL_EXPORTER_OTLP_PROTOCOL, value: {{ .protocol | quote }}}
- {name: OTEL_TRACES_SAMPLER, value: {{ .sampler | quote }}}
- {name: OTEL_TRACES_SAMPLER_ARG, value: {{ include "inference-gateway.text" .samplerArg | quote }}}
- {name: OTEL_SERVICE_NAME, value: {{ default (include "inference-gateway.fullname" $) .serviceName | quote }}}
{{- $attributes := list "k8s.pod.name=$(POD_NAME)" "k8s.namespace.name=$(POD_NAMESPACE)" }}
{{- range $name, $value := .resourceAttributes }}
{{- $attributes = append $attributes (printf "%s=%s" $name $value) }}
{{- end }}
- {name: OTEL_RESOURCE_ATTRIBUTES, value: {{ join "," $attributes | quote }}}
{{- with .headersSecret.name }}
- name: OTEL_EXPORTER_OTLP_HEADERS
  valueFrom:
    secretKeyRef: {name: {{ . | quote }}, key: {{ $.Values.traces.headersSecret.key | quote }}}
{{- end }}
{{- end }}
{{- end }}
{{- range $name, $value := .Values.settings }}
- {name: {{ $name }}, value: {{ include "inference-gateway.text" $value | quote }}}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}
