{{- /* Names of objects. Beside the agents, in one release, they are others than the release's. */ -}}
{{- define "server.name" -}}
{{ .Values.nameOverride | default .Release.Name }}
{{- end }}

{{- define "server.selector" -}}
app.kubernetes.io/name: tapio-server
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "server.portti" -}}
app.kubernetes.io/name: tapio-server
app.kubernetes.io/component: portti
{{- end }}

{{- define "server.ahti" -}}
app.kubernetes.io/name: tapio-server
app.kubernetes.io/component: ahti
{{- end }}

{{- /* What the server reads; the pod is made anew when it changes. */ -}}
{{- define "server.config" -}}
{{- $config := deepCopy .Values.config }}
{{- if .Values.api.tlsSecret }}
{{- $files := dict "cert" "/etc/tapio-server-tls/tls.crt" "key" "/etc/tapio-server-tls/tls.key" }}
{{- $_ := set $config "ahti" (merge ($config.ahti | default dict) $files) }}
{{- end }}
{{- toYaml $config }}
{{ end }}

{{- /* Which objects of Kubernetes targets of `notify` write: "events", "incidents". */ -}}
{{- define "server.writes" -}}
{{- range .Values.config.notify }}
{{- $kubernetes := (. | default dict).kubernetes | default dict }}
{{- range list "events" "incidents" }}
{{- if eq (get $kubernetes . | toString) "true" }}{{ . }} {{ end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* A port that is reached from outside of the pod. */ -}}
{{- define "server.port" -}}
{{- if not (regexMatch "^(0\\.0\\.0\\.0|\\[::\\]):" .address) }}
{{- fail (printf "%s: %s cannot be reached from outside the pod; use 0.0.0.0:PORT or [::]:PORT" .key .address) }}
{{- end }}
{{- regexFind "[0-9]+$" .address }}
{{- end }}

{{- /* Fails if an object that servers share is there and is not this release's, before Helm does, with the remedy. */ -}}
{{- define "server.unowned" -}}
{{- $release := (index . 0).Release }}
{{- $found := lookup (index . 1) (index . 2) "" (index . 3) }}
{{- if $found }}
{{- $owner := $found.metadata.annotations | default dict }}
{{- $name := get $owner "meta.helm.sh/release-name" }}
{{- $namespace := get $owner "meta.helm.sh/release-namespace" }}
{{- if not (and (eq $name $release.Name) (eq $namespace $release.Namespace)) }}
{{- $whose := ternary "was made without Helm" (printf "is of release %s in namespace %s" $name $namespace) (eq $name "") }}
{{- fail (printf "shared: %s %s is there and %s; all servers of a cluster share it: set shared=false" (index . 2) (index . 3) $whose) }}
{{- end }}
{{- end }}
{{- end }}
